"""`optimum-cli export edgepress`: our `export`, under optimum's command line.

optimum looks for files in the namespace folder optimum/commands/register; ours, installed by compress/kernels'
CMakeLists.txt, imports REGISTER_COMMANDS from here.
"""

from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class EdgepressExportCommand(BaseOptimumCLICommand):
    """Its options are those of `edgepress export`, behind the output folder."""

    COMMAND = CommandInfo(name="edgepress", help="Export a compressed bundle for ONNX Runtime on edge devices.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("-m", "--model", required=True, help="A model folder, a GGUF file, or a hub id.")
        parser.add_argument("output", help="Folder to write; must not exist.")
        parser.add_argument("options", nargs=REMAINDER, help="As `edgepress export --help` lists them.")

    def run(self) -> None:
        from edgepress.cli import main

        assert self.args
        main(["export", self.args.model, "-o", self.args.output, *self.args.options])


REGISTER_COMMANDS = [(EdgepressExportCommand, ExportCommand)]
