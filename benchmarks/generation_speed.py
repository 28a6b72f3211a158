"""How fast `generate` is beside KerasHub's (TensorFlow) and Hugging Face's (torch).

    python benchmarks/generation_speed.py                    greedy and beam 4, batch 1
    python benchmarks/generation_speed.py --batch 32
    python benchmarks/generation_speed.py --quick            a check that takes a minute

An encoder-decoder of 3 + 3 layers writes 64 tokens for a source of 32; nothing ends
before. Theirs are a BART (KerasHub) and a Marian (Hugging Face) of the same sizes. All
are measured in turn within one run (A B C A B C), so that whatever else the machine
does meets all of them, and reported as ratios of medians: above 1 is slower than ours.
The first call of each, which traces and compiles, is measured apart. float32, random
weights, on a CPU. `xla` and `graph` are the two settings of TensorFlow; OpenMP threads
that wait do not spin (`OMP_WAIT_POLICY=PASSIVE`), or they would take the time of the
others.
"""

import argparse
import json
import os
import statistics
import time


def main():
    arguments = parse_arguments()
    results = {"arguments": vars(arguments)}
    for num_beams in arguments.num_beams:
        key = f"{num_beams} beams" if num_beams > 1 else "greedy"
        results[key] = compare(arguments, num_beams)
    if arguments.json:
        temporary = f"{arguments.json}.new"
        with open(temporary, "w") as file:
            json.dump(results, file, indent=1)
        os.replace(temporary, arguments.json)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--peers", nargs="+", default=["ours", "keras_hub", "hugging_face"])
    add("--settings", nargs="+", default=["xla", "graph"], help="of TensorFlow")
    add("--num-beams", nargs="+", type=int, default=[1, 4])
    add("--batch", type=int, default=1)
    add("--source-length", type=int, default=32)
    add("--new-tokens", type=int, default=64)
    add("--num-layers", type=int, default=3)
    add("--hidden-dim", type=int, default=256)
    add("--vocabulary-size", type=int, default=8000)
    add("--rounds", type=int, default=5, help="turns of all peers; the first is extra")
    add("--repeats", type=int, default=3, help="calls in a turn")
    add("--threads", type=int, default=1)
    add("--json", help="file for all times, in seconds")
    add("--quick", action="store_true", help="tiny sizes and one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.num_layers, arguments.hidden_dim = 1, 64
        arguments.vocabulary_size, arguments.new_tokens = 101, 16
        arguments.rounds = 1
    # Read by the libraries when they are imported, which happens below.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(arguments.threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(arguments.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return arguments


# === One call of each peer: functions without arguments that return token ids ===


def random_source(arguments):
    import numpy as np

    shape = (arguments.batch, arguments.source_length)
    ids = np.random.default_rng(0).integers(5, arguments.vocabulary_size, shape)
    return ids.astype("int32"), np.ones(shape, "int32")


def our_calls(arguments, num_beams):
    from keras_tformer import models

    model = models.transformer(
        vocabulary_size=arguments.vocabulary_size,
        num_layers=arguments.num_layers,
        num_heads=max(1, arguments.hidden_dim // 64),
        hidden_dim=arguments.hidden_dim,
        intermediate_dim=4 * arguments.hidden_dim,
        activation="gelu_tanh",
        use_attention_bias=True,
    )
    ids, mask = random_source(arguments)

    def call(setting):
        return models.generate(
            model,
            {"encoder_token_ids": ids, "encoder_padding_mask": mask},
            max_length=arguments.new_tokens + 1,
            num_beams=num_beams,
            start_token_id=1,
            jit_compile=setting == "xla",
        )

    return {f"ours {x}": lambda x=x: call(x) for x in arguments.settings}


def keras_hub_calls(arguments, num_beams):
    import keras_hub
    import numpy as np

    calls = {}
    ids, mask = random_source(arguments)
    for setting in arguments.settings:
        backbone = keras_hub.models.BartBackbone(
            vocabulary_size=arguments.vocabulary_size,
            num_layers=arguments.num_layers,
            num_heads=max(1, arguments.hidden_dim // 64),
            hidden_dim=arguments.hidden_dim,
            intermediate_dim=4 * arguments.hidden_dim,
            max_sequence_length=arguments.new_tokens + arguments.source_length,
        )
        model = keras_hub.models.BartSeq2SeqLM(backbone, preprocessor=None)
        sampler = "greedy"
        if num_beams > 1:
            sampler = keras_hub.samplers.BeamSampler(num_beams=num_beams)
        model.compile(sampler=sampler, jit_compile=setting == "xla")
        shape = (arguments.batch, arguments.new_tokens + 1)
        inputs = {
            "encoder_token_ids": ids,
            "encoder_padding_mask": mask,
            "decoder_token_ids": np.ones(shape, "int32"),
            "decoder_padding_mask": (np.arange(shape[1]) < 1)[None].repeat(
                arguments.batch, axis=0
            ),
        }
        calls[f"keras_hub {setting}"] = lambda model=model, inputs=inputs: (
            model.generate(inputs, stop_token_ids=None)["decoder_token_ids"]
        )
    return calls


def hugging_face_calls(arguments, num_beams):
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    heads = max(1, arguments.hidden_dim // 64)
    config = transformers.MarianConfig(
        vocab_size=arguments.vocabulary_size,
        d_model=arguments.hidden_dim,
        encoder_layers=arguments.num_layers,
        decoder_layers=arguments.num_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * arguments.hidden_dim,
        decoder_ffn_dim=4 * arguments.hidden_dim,
        max_position_embeddings=512,
        activation_function="gelu_pytorch_tanh",
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    model = transformers.MarianMTModel(config).eval()
    ids, mask = random_source(arguments)
    settings = transformers.GenerationConfig(
        max_new_tokens=arguments.new_tokens,
        min_new_tokens=arguments.new_tokens,
        num_beams=num_beams,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=1,
    )

    def call():
        with torch.inference_mode():
            return model.generate(
                input_ids=torch.tensor(ids).long(),
                attention_mask=torch.tensor(mask).long(),
                generation_config=settings,
            ).numpy()

    return {"hugging_face eager": call}


PEERS = {
    "ours": our_calls,
    "keras_hub": keras_hub_calls,
    "hugging_face": hugging_face_calls,
}


def compare(arguments, num_beams):
    calls, first = {}, {}
    for peer in arguments.peers:
        calls |= PEERS[peer](arguments, num_beams)
    for name, call in calls.items():
        start = time.perf_counter()
        found = call()
        first[name] = time.perf_counter() - start
        if found.shape != (arguments.batch, arguments.new_tokens + 1):
            raise ValueError(f"{name} returned ids of shape {found.shape}")
    times = {name: [] for name in calls}
    for round_number in range(-1, arguments.rounds):
        for name, call in calls.items():
            for _ in range(1 if round_number < 0 else arguments.repeats):
                start = time.perf_counter()
                call()
                if round_number >= 0:
                    times[name].append(time.perf_counter() - start)
    title = "greedy" if num_beams == 1 else f"beam {num_beams}"
    print_table(f"{title}, batch {arguments.batch}", times, first, arguments)
    return {"times": times, "first calls": first}


def print_table(title, times, first, arguments):
    """Prints medians and extremes, tokens per second, and the ratio to our best."""
    count = arguments.batch * arguments.new_tokens
    ours = [statistics.median(times[key]) for key in times if key.startswith("ours")]
    print(f"\n{title}, {arguments.new_tokens} tokens, {arguments.threads} thread(s)")
    for key, measured in times.items():
        median = statistics.median(measured)
        line = f"  {key:20}{median * 1e3:9.1f} ms"
        line += f"  ({min(measured) * 1e3:.1f} to {max(measured) * 1e3:.1f})"
        line += f"  {count / median:7.0f} tokens/s"
        if ours:
            line += f"  {median / min(ours):5.2f} x ours at its better setting"
        print(f"{line}  first call {first[key]:.1f} s", flush=True)


if __name__ == "__main__":
    main()
