"""AutoRound (PyPI auto-round) presses a model's linear layers, run by an interpreter that has it and nothing of ours.

    PYTHON autoround_press.py MODEL IDS.npy OUTPUT ITERATIONS [--asymmetric]

OUTPUT gets a folder in Hugging Face layout, with the weights that the codes stand for; embedding and head stay at 16
bits.
Everything that is not named here is AutoRound's own default.
"""

import argparse

import numpy as np
import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("ids", help="int64 [chunks, tokens], .npy")
    parser.add_argument("output")
    parser.add_argument("iterations", type=int)
    parser.add_argument("--asymmetric", action="store_true")
    given = parser.parse_args()
    chunks = np.load(given.ids)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype="auto")
    rounder = AutoRound(
        model, AutoTokenizer.from_pretrained(given.model), bits=4, group_size=32, sym=not given.asymmetric,
        iters=given.iterations, dataset=[torch.from_numpy(chunk[None]) for chunk in chunks], seqlen=chunks.shape[1],
        nsamples=len(chunks), device_map="cpu",
    )  # fmt: skip
    rounder.quantize_and_save(given.output, format="fake")


if __name__ == "__main__":
    main()
