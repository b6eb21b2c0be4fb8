"""Networks of other projects for ``edge.py --peers``, from a checkout of each.

Nothing of theirs is here, because their licences (GPL 3, Apache 2) differ: a header is written
that includes files of the checkout, and that ``edge/main.c`` and ``edge/stream.c`` take for ours.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image

BITNETMCU = """
#ifdef __riscv
#define CH32V003 /* its code without multiplications */
#endif
#include "{model}"
#include "{checkout}/BitNetMCU_inference.c"
{inference}
struct {name}_state {{}};
static int {name}_predict(struct {name}_state *state, const uint8_t *pixels, int32_t *logits) {{
    (void)state, (void)logits;
    return (int)BitMnistInference((const int8_t *)pixels);
}}
"""
# In place of its `tm_port.h`, with memory for the model only. gcc 12 does not compile its assembler
# for a Cortex-M4 with -O2.
TINYMAIX = """
#define __TM_PORT_H
#define TM_ARCH_CPU 0
#define TM_OPT0 0
#define TM_OPT1 1
#define TM_ARCH TM_ARCH_CPU
#define TM_OPT_LEVEL TM_OPT0
#define TM_MDL_TYPE TM_MDL_INT8
#define TM_FASTSCALE 0
#define TM_LOCAL_MATH 1
#define TM_ENABLE_STAT 0
#define TM_MAX_CSIZE 16
#define TM_MAX_KSIZE 9
#define TM_MAX_KCSIZE 72
#define TM_INLINE __attribute__((always_inline)) static inline
#define TM_WEAK
#define TM_PRINTF(...)
#define TM_DBGT_INIT()
#define TM_PERF_REG(x)
#define TM_PERF_INIT(x)
#define TM_PERF_START(x)
#define TM_PERF_ADD(x)
#define tm_malloc(x) NULL
#define tm_free(x)
#include "CHECKOUT/src/tm_model.c"
#include "CHECKOUT/src/tm_layers.c"
#include "CHECKOUT/tools/tmdl/mnist_valid_q.h"
struct tinymaix_valid_state {
    tm_mdl_t model;
    uint8_t buffer[MDL_BUF_LEN] __attribute__((aligned(8)));
};
static int tinymaix_valid_predict(
    struct tinymaix_valid_state *state, const uint8_t *pixels, int32_t *logits) {
    tm_mat_t in, out[1], given = {3, 28, 28, 1, {(mtype_t *)pixels}};
    (void)logits;
    if (tm_load(&state->model, mdl_data, state->buffer, NULL, &in)) return -1;
    tm_preprocess(&state->model, TMPP_UINT2INT, &given, &in);
    if (tm_run(&state->model, &in, out)) return -1;
    int best = 0;
    for (int i = 1; i < 10; i++)
        if (out[0].dataf[i] > out[0].dataf[best]) best = i;
    return best;
}
"""


@dataclass(frozen=True)
class Peer:
    """A network: its name, its headers, and what turns images ``[N, 28, 28]`` into its input."""

    name: str
    headers: dict[str, str]
    prepare: Callable[[ndarray], ndarray]


def to_16(images: ndarray) -> ndarray:
    """Return images as BitNetMCU's ``test_inference.py`` scales them: ``[N, 16, 16]``."""
    small = [Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR) for image in images]
    x = (np.stack([np.asarray(one) for one in small]).astype(np.float32) / 255 - 0.1307) / 0.3081
    most = np.abs(x).max((1, 2), keepdims=True)
    return (x * (127 / most)).round().clip(-128, 127).astype(np.int8).view(np.uint8)


def bitnetmcu(checkout: Path) -> Iterator[Peer]:
    """Return BitNetMCU's networks for digits, with the function of its demo for a board."""
    demo = (checkout / "mcu" / "BitNetMCUdemo.c").read_text("utf-8")
    inference = demo[demo.index("#ifdef MODEL_CNNMNIST") : demo.index("void TestSample")]
    (checkout / "BitNetMCU_inference.c").stat()
    for model in sorted(checkout.glob("mcu/BitNetMCU_model_*.h")):
        name = model.stem.replace("_model", "").lower()
        known = {"name": name, "model": model, "checkout": checkout, "inference": inference}
        if not name.endswith("letters"):
            yield Peer(name, {f"{name}.h": BITNETMCU.format(**known)}, to_16)


def tinymaix(checkout: Path) -> Iterator[Peer]:
    """Return the int8 network of TinyMaix's example for digits."""
    for needed in ("tools/tmdl/mnist_valid_q.h", "src/tm_layers.c"):
        (checkout / needed).stat()
    headers = {
        "tinymaix_valid.h": TINYMAIX.replace("CHECKOUT", str(checkout)),
        "tinymaix.h": f'#include "{checkout}/include/tinymaix.h"\n',  # for their sources
    }
    yield Peer("tinymaix_valid", headers, lambda images: images)


KNOWN = {"bitnetmcu": bitnetmcu, "tinymaix": tinymaix}


def load(words: list[str]) -> list[Peer]:
    """Return the networks of the checkouts that ``NAME=FOLDER`` words give."""
    found = []
    for word in words:
        name, _, folder = word.partition("=")
        if name not in KNOWN or not folder:
            raise SystemExit(f"error: --peers {word}: give bitnetmcu=FOLDER or tinymaix=FOLDER")
        try:
            networks = list(KNOWN[name](Path(folder).resolve()))
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: --peers {word}: not a checkout of {name}: {error}") from None
        if not networks:
            raise SystemExit(f"error: --peers {word}: it has no networks for digits")
        found += networks
    return found
