"""Trains the starter model. See ``python train.py --help``.

Everything is seeded: corpus, tokeniser, initial weights and the order of the batches. The learning
rate depends on the elapsed share of the time, so that a run of any length ends at the final rate.
Two runs of the same length on machines of different speed therefore differ.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from chat import ANSWER, END_OF_TEXT, END_OF_TURN, render
from corpus import samples
from model import Llama, Shape
from tokenizer import train as train_tokenizer
from tokenizers import Tokenizer
from torch.nn import functional as F
from tqdm import tqdm

SEED = 11611
HELD_OUT_SEED = SEED + 1
OUT = Path(__file__).parent / "out"
PROMPT_WEIGHT = 0.1
"""The loss weight of a token of a prompt; a token of an answer has weight 1."""


def weigh(ids: list[int], tokenizer: Tokenizer, plain: bool) -> list[float]:
    """Return the loss weight of every token of a sample."""
    if plain:
        return [1.0] * len(ids)
    answer = tokenizer.encode(ANSWER).ids
    end = tokenizer.token_to_id(END_OF_TURN)
    weights, inside = [], False
    for i, token in enumerate(ids):
        weights.append(1.0 if inside else PROMPT_WEIGHT)
        if inside and token == end:
            inside = False
        elif ids[max(0, i + 1 - len(answer)) : i + 1] == answer:
            inside = True
    return weights


def make_data(tokenizer: Tokenizer, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and loss weights of ``count`` samples, one after the other."""
    ids: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    stream = samples(seed)
    for _ in tqdm(range(math.ceil(count / 1000)), desc="corpus", unit="k"):
        batch = list(islice(stream, 1000))
        encodings = tokenizer.encode_batch([render(sample) for sample in batch])
        for sample, encoding in zip(batch, encodings, strict=True):
            tokens = encoding.ids
            if "text" not in sample:
                tokens = tokens[:-1] if tokens[-1] == end_of_text else tokens
            ids.append(np.array(tokens, dtype=np.int16))
            weights.append(np.array(weigh(tokens, tokenizer, "text" in sample), dtype=np.float16))
    return np.concatenate(ids), np.concatenate(weights)


class Batches:
    """Windows of the data that begin at random places."""

    def __init__(self, ids: np.ndarray, weights: np.ndarray, device: torch.device) -> None:
        self.ids = torch.from_numpy(ids.astype(np.int64)).to(device)
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self.generator = torch.Generator().manual_seed(SEED)

    def next(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return inputs, targets and weights of the targets, each (rows, length)."""
        high = len(self.ids) - length - 1
        starts = torch.randint(high, (rows, 1), generator=self.generator).to(self.ids.device)
        index = starts + torch.arange(length + 1, device=self.ids.device)
        ids = self.ids[index]
        return ids[:, :-1], ids[:, 1:], self.weights[index][:, 1:]


def learning_rate(done: float, peak: float) -> float:
    """Warm up over the first 2 %, then fall to 2 % of the peak along a cosine."""
    if done < 0.02:
        return peak * done / 0.02
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.02) / 0.98)))


def save(model: Llama, losses: list[tuple[int, float]]) -> None:
    """Write weights, shape and losses to ``out/``."""
    part = OUT / "model.pt.part"
    torch.save(model.state_dict(), part)
    part.replace(OUT / "model.pt")
    (OUT / "shape.json").write_text(json.dumps(asdict(model.shape)))
    (OUT / "losses.json").write_text(json.dumps(losses))


def plot(losses: list[tuple[int, float]], path: Path) -> None:
    """Draw the loss curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    steps, values = zip(*losses, strict=True)
    axes.plot(steps, values, linewidth=1)
    axes.set(xlabel="step", ylabel="weighted cross entropy (nats)", yscale="log")
    axes.set_title("Training loss of the starter model")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=90, help="time for the steps (90)")
    parser.add_argument("--samples", type=int, default=250_000, help="samples of the corpus")
    parser.add_argument("--rows", type=int, default=16, help="sequences in a batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    options = parser.parse_args()

    torch.manual_seed(SEED)
    OUT.mkdir(exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = OUT / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path)) if path.exists() else train_tokenizer(path, SEED)
    batches = Batches(*make_data(tokenizer, SEED, options.samples), device)
    print(f"{len(batches.ids):,} tokens of training text, on {device}")

    model = Llama(Shape(vocab=tokenizer.get_vocab_size())).to(device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.97),
        fused=True,
    )
    run(model, optimizer, batches, options)


def run(
    model: Llama,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    options: argparse.Namespace,
) -> None:
    """Step until the time is over; save every 1,000 steps and at the end."""
    losses: list[tuple[int, float]] = []
    began, step, mean = time.monotonic(), 0, 0.0
    bar = tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}")
    while (done := (time.monotonic() - began) / (60 * options.minutes)) < 1:
        # Some long windows, so that the model also learns far positions.
        long = step % 40 == 39
        length = 8 * options.length if long else options.length
        rows = max(1, options.rows // 8) if long else options.rows
        ids, targets, weights = batches.next(rows, length)
        with torch.autocast(model.embed.weight.device.type, dtype=torch.bfloat16):
            logits = model(ids)
        token_loss = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), reduction="none"
        )
        loss = (token_loss * weights.flatten()).sum() / weights.sum()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done, options.rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
        if step % 20 == 0:
            losses.append((step, mean))
            bar.n = round(100 * done, 1)
            bar.set_postfix_str(f"step {step}, loss {mean:.4f}")
        if step % 1000 == 0:
            save(model, losses)
    bar.close()
    save(model, losses)
    plot(losses, Path(__file__).parent / "loss.png")
    print(f"{step} steps, loss {mean:.4f}")


if __name__ == "__main__":
    main()
