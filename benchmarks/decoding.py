"""How fast `generate` is beside Hugging Face, KerasHub and CTranslate2, in tokens/s.

    python benchmarks/decoding.py                     greedy and beam 4, batch 1 and 32
    python benchmarks/decoding.py --peers ours ctranslate2 --batch 1
    python benchmarks/decoding.py --lengths 16 64 256 what a step costs, by its length
    python benchmarks/decoding.py --quick             a check that takes a minute

An encoder-decoder of 3 + 3 layers writes 64 tokens for a source of 32; nothing ends
before. Hugging Face (torch), CTranslate2 (float32 and int8; `pip install ctranslate2`)
and ours have the same weights, those of a random Marian, and the ids that they write
are compared; KerasHub's is a BART of the same sizes. `litert` is the encoder and the
decoder's step as `.tflite` file, greedy and one text at a time, its loop in Python.

All are measured in turn within one run (A B C A B C), so that whatever else the machine
does meets all of them. Two tables' worth of columns: wall time (median, least), and CPU
time of all threads (median), which tells more on a shared machine. Ratios are to our
`generate` at the better of its settings; above 1 is slower than ours. The first call,
which traces and compiles, is measured apart. OpenMP threads that wait do not spin
(`OMP_WAIT_POLICY=PASSIVE`), or they would take the time of the others; with more than
one thread that ruins CTranslate2 at batch 1, so that one thread is the default.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time


def main():
    arguments = parse_arguments()
    results = {"arguments": vars(arguments)}
    with tempfile.TemporaryDirectory() as folder:
        marian = make_marian(arguments, folder)
        if arguments.lengths:
            results["lengths"] = step_costs(arguments, folder)
        else:
            for batch in arguments.batch:
                for num_beams in arguments.num_beams:
                    key = f"{num_beams} beams, batch {batch}"
                    results[key] = compare(arguments, folder, marian, num_beams, batch)
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
    add("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    add("--settings", nargs="+", default=["xla"], help="of TensorFlow: xla, graph")
    add("--num-beams", nargs="+", type=int, default=[1, 4])
    add("--batch", nargs="+", type=int, default=[1, 32])
    add("--lengths", nargs="+", type=int, help="measure our step at these lengths")
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
        arguments.rounds, arguments.batch = 1, [2]
    # Read by the libraries when they are imported, which happens below.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(arguments.threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(arguments.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return arguments


def make_marian(arguments, folder):
    """Writes a random Marian into a folder; the torch model comes back."""
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
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
        max_position_embeddings=max(512, *(arguments.lengths or [0])),
        activation_function="relu",
        scale_embedding=True,
        init_std=0.06,
        # As in Marian's own files; CTranslate2 counts on it.
        eos_token_id=0,
        pad_token_id=arguments.vocabulary_size - 1,
        decoder_start_token_id=arguments.vocabulary_size - 1,
        forced_eos_token_id=None,
    )
    model = transformers.MarianMTModel(config).eval()
    model.save_pretrained(folder)
    return model


def random_source(arguments, batch):
    import numpy as np

    shape = (batch, arguments.source_length)
    ids = np.random.default_rng(0).integers(5, arguments.vocabulary_size - 1, shape)
    return ids.astype("int32"), np.ones(shape, "int32")


# === One call of each peer: functions without arguments that return token ids ===


def our_calls(arguments, folder, marian, num_beams, batch):
    from keras_tformer import checkpoints, models

    model = checkpoints.load_huggingface(folder)
    ids, mask = random_source(arguments, batch)

    def call(setting):
        return models.generate(
            model,
            {"encoder_token_ids": ids, "encoder_padding_mask": mask},
            max_length=arguments.new_tokens + 1,
            num_beams=num_beams,
            pad_token_id=arguments.vocabulary_size - 1,
            forbidden_token_ids=[0, arguments.vocabulary_size - 1],
            length_penalty=0.0,
            jit_compile=setting == "xla",
        )[:, 1:]

    return {f"ours {x}": lambda x=x: call(x) for x in arguments.settings}


def litert_calls(arguments, folder, marian, num_beams, batch):
    """The two signatures of a file, a token a call; greedy, one text."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    from keras_tformer import checkpoints, export

    if num_beams > 1 or batch > 1:
        return {}
    ids, mask = random_source(arguments, batch)
    last = arguments.vocabulary_size - 1
    calls = {}
    for quantization in (None, "dynamic_range", "int8"):
        name = quantization or "float32"
        file = os.path.join(folder, f"{name}.tflite")
        if not os.path.exists(file):
            export.to_tflite(
                checkpoints.load_huggingface(folder),
                file,
                sequence_length=arguments.source_length,
                max_length=arguments.new_tokens + 1,
                quantization=quantization,
                representative_data=random_pairs(arguments),
                verify=False,  # tests do; int8 of random weights is nothing to go by
            )
        interpreter = Interpreter(model_path=file, num_threads=arguments.threads)
        encode = interpreter.get_signature_runner("encode")
        step = interpreter.get_signature_runner("decode_step")
        empty = {
            key: np.zeros(detail["shape"], "float32")
            for key, detail in step.get_input_details().items()
            if key.startswith("self_")
        }

        def call(encode=encode, step=step, empty=empty):
            memory = encode(encoder_token_ids=ids, encoder_padding_mask=mask)
            memory = {key: value.copy() for key, value in memory.items()}
            state, tokens = empty, [last]
            for position in range(arguments.new_tokens):
                state = step(
                    token_ids=np.array([[tokens[-1]]], "int32"),
                    position=np.array([position], "int32"),
                    encoder_padding_mask=mask,
                    **memory,
                    **state,
                )
                logits = state.pop("logits")[0]
                tokens.append(1 + int(logits[1:-1].argmax()))  # as the others may not
                state = {key: value.copy() for key, value in state.items()}
            return np.array([tokens[1:]])

        calls[f"litert {name}"] = call
    return calls


def random_pairs(arguments):
    """Inputs of the whole model, for the ranges of int8."""
    import numpy as np

    ids, mask = random_source(arguments, 8)
    shape = (8, arguments.new_tokens + 1)
    targets = np.random.default_rng(1).integers(5, arguments.vocabulary_size - 1, shape)
    targets[:, 0] = arguments.vocabulary_size - 1
    return {
        "encoder_token_ids": ids,
        "encoder_padding_mask": mask,
        "decoder_token_ids": targets.astype("int32"),
        "decoder_padding_mask": np.ones(shape, "int32"),
    }


def keras_hub_calls(arguments, folder, marian, num_beams, batch):
    import keras_hub
    import numpy as np

    calls = {}
    ids, mask = random_source(arguments, batch)
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
        shape = (batch, arguments.new_tokens + 1)
        inputs = {
            "encoder_token_ids": ids,
            "encoder_padding_mask": mask,
            "decoder_token_ids": np.ones(shape, "int32"),
            "decoder_padding_mask": (np.arange(shape[1]) < 1)[None].repeat(
                batch, axis=0
            ),
        }
        calls[f"keras_hub {setting}"] = lambda model=model, inputs=inputs: (
            model.generate(inputs, stop_token_ids=None)["decoder_token_ids"][:, 1:]
        )
    return calls


def hugging_face_calls(arguments, folder, marian, num_beams, batch):
    import torch
    import transformers

    ids, mask = random_source(arguments, batch)
    settings = transformers.GenerationConfig(
        max_new_tokens=arguments.new_tokens,
        num_beams=num_beams,
        do_sample=False,
        pad_token_id=arguments.vocabulary_size - 1,
        eos_token_id=None,
        decoder_start_token_id=arguments.vocabulary_size - 1,
        bad_words_ids=[[0], [arguments.vocabulary_size - 1]],
        length_penalty=0.0,
    )

    def call():
        with torch.inference_mode():
            return marian.generate(
                input_ids=torch.tensor(ids).long(),
                attention_mask=torch.tensor(mask).long(),
                generation_config=settings,
            ).numpy()[:, 1:]

    return {"hugging_face eager": call}


def ctranslate2_calls(arguments, folder, marian, num_beams, batch):
    import ctranslate2
    import numpy as np
    import transformers
    from ctranslate2.converters.transformers import MarianMTLoader

    ids, _ = random_source(arguments, batch)
    words = [f"<{index}>" for index in range(arguments.vocabulary_size - 1)]
    words[0], words[1] = "</s>", "<unk>"
    source = [[words[index] for index in row] for row in ids]
    calls = {}
    for kind in ("float32", "int8"):
        target = os.path.join(folder, f"ctranslate2_{kind}")
        if not os.path.isdir(target):
            # A copy: the loader takes the last token out of the model it is given.
            copy = transformers.MarianMTModel.from_pretrained(folder)
            spec = MarianMTLoader().get_model_spec(copy)
            spec.register_source_vocabulary(words)
            spec.register_target_vocabulary(words)
            spec.config.eos_token, spec.config.unk_token = words[:2]
            spec.config.decoder_start_token = words[0]  # any: its vector is zero
            spec.validate()
            spec.optimize(quantization=kind)
            os.makedirs(target)
            spec.save(target)
        translator = ctranslate2.Translator(
            target,
            compute_type=kind,
            inter_threads=1,
            intra_threads=arguments.threads,
        )

        def call(translator=translator):
            found = translator.translate_batch(
                source,
                beam_size=num_beams,
                min_decoding_length=arguments.new_tokens,
                max_decoding_length=arguments.new_tokens,
                length_penalty=0,
            )
            numbers = {word: index for index, word in enumerate(words)}
            return np.array(
                [[numbers[word] for word in text.hypotheses[0]] for text in found]
            )

        calls[f"ctranslate2 {kind}"] = call
    return calls


PEERS = {
    "ours": our_calls,
    "litert": litert_calls,
    "keras_hub": keras_hub_calls,
    "hugging_face": hugging_face_calls,
    "ctranslate2": ctranslate2_calls,
}


def compare(arguments, folder, marian, num_beams, batch):
    calls, first, found = {}, {}, {}
    for peer in arguments.peers:
        calls |= PEERS[peer](arguments, folder, marian, num_beams, batch)
    for name, call in calls.items():
        start = time.perf_counter()
        found[name] = call()
        first[name] = time.perf_counter() - start
        if found[name].shape != (batch, arguments.new_tokens):
            raise ValueError(f"{name} returned ids of shape {found[name].shape}")
    wall, cpu = ({name: [] for name in calls} for _ in range(2))
    for round_number in range(-1, arguments.rounds):
        for name, call in calls.items():
            for _ in range(1 if round_number < 0 else arguments.repeats):
                start, start_cpu = time.perf_counter(), time.process_time()
                call()
                if round_number >= 0:
                    wall[name].append(time.perf_counter() - start)
                    cpu[name].append(time.process_time() - start_cpu)
    title = "greedy" if num_beams == 1 else f"beam {num_beams}"
    print(
        f"\n{title}, batch {batch}, {arguments.new_tokens} tokens, "
        f"{arguments.threads} thread(s)"
    )
    print_table(wall, cpu, first, found, batch * arguments.new_tokens)
    return {"wall": wall, "cpu": cpu, "first calls": first}


def print_table(wall, cpu, first, found, count):
    """Prints times, tokens per second, ratios to our best, and the share of our ids."""
    ours = [name for name in wall if name.startswith("ours")]
    print(
        f"  {'':21}{'wall ms':>9}{'least':>9}{'CPU ms':>9}{'tokens/s':>10}"
        f"{'x ours':>8}{'least':>7}{'CPU':>6}{'our ids':>9}{'first s':>9}"
    )
    for name in wall:
        numbers = [
            statistics.median(wall[name]),
            min(wall[name]),
            statistics.median(cpu[name]),
        ]
        line = f"  {name:21}" + "".join(f"{x * 1e3:9.1f}" for x in numbers)
        line += f"{count / numbers[0]:10.0f}"
        if ours:
            measures = (
                (wall, statistics.median),
                (wall, min),
                (cpu, statistics.median),
            )
            for width, (times, measure), number in zip(
                (8, 7, 6), measures, numbers, strict=True
            ):
                least = min(measure(times[key]) for key in ours)
                line += f"{number / least:{width}.2f}"
            share = (found[name] == found[ours[0]]).mean()
            line += f"{share:9.1%}" if "keras_hub" not in name else f"{'':9}"
        print(f"{line}{first[name]:9.1f}", flush=True)


def step_costs(arguments, folder):
    """Prints what a token costs in texts of several lengths.

    Every text has room for `length` tokens, so that attention reads that many slots in
    each of its steps. All lengths take turns.
    """
    times = {}
    calls = {}
    for length in arguments.lengths:
        for num_beams in arguments.num_beams:
            own = argparse.Namespace(**{**vars(arguments), "new_tokens": length})
            found = our_calls(own, folder, None, num_beams, arguments.batch[0])
            calls[length, num_beams] = found["ours xla"]
            found["ours xla"]()
            times[length, num_beams] = []
    for _ in range(arguments.rounds * arguments.repeats):
        for key, call in calls.items():
            start = time.process_time()
            call()
            times[key].append(time.process_time() - start)
    print(f"\nbatch {arguments.batch[0]}: CPU ms a token, by tokens in a text")
    for num_beams in arguments.num_beams:
        for length in arguments.lengths:
            median = statistics.median(times[length, num_beams])
            print(
                f"  {num_beams} beam(s), {length:5} tokens: {median * 1e3:8.1f} ms, "
                f"{median / length * 1e3:6.2f} ms a token",
                flush=True,
            )
    return {f"{beams} beams, {length}": t for (length, beams), t in times.items()}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
