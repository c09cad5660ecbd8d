// Logits of llama.cpp, of every position: logits MODEL.gguf CONTEXT THREADS
//
// Writes the vocabulary's size (int32). Then, for each int32 n and n int32 tokens on stdin, n x vocabulary float32.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

static void quiet(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int fail(const char * what) {
    fprintf(stderr, "%s\n", what);
    return 1;
}

int main(int argc, char ** argv) {
    if (argc != 4) return fail("usage: logits MODEL.gguf CONTEXT THREADS");
    llama_log_set(quiet, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return fail("the model does not load");
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = uint32_t(atoi(argv[2]));
    params.n_threads = params.n_threads_batch = atoi(argv[3]);
    llama_context * context = llama_init_from_model(model, params);
    if (!context) return fail("the context does not open");
    const int32_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    fwrite(&vocabulary, sizeof vocabulary, 1, stdout);
    fflush(stdout);

    llama_batch batch = llama_batch_init(int32_t(params.n_batch), 0, 1);
    int32_t count;
    while (fread(&count, sizeof count, 1, stdin) == 1) {
        if (count < 1 || uint32_t(count) > params.n_batch) return fail("more tokens than the context holds");
        if (fread(batch.token, sizeof(int32_t), size_t(count), stdin) != size_t(count)) return fail("tokens are missing");
        for (int32_t i = 0; i < count; ++i) {
            batch.pos[i] = i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        batch.n_tokens = count;
        llama_memory_clear(llama_get_memory(context), true);
        if (llama_decode(context, batch)) return fail("decoding failed");
        fwrite(llama_get_logits(context), sizeof(float), size_t(count) * size_t(vocabulary), stdout);
        fflush(stdout);
    }
    return 0;
}
