"""torch's matrix products (cuBLAS) on the shapes of cuda_bench's lines of linear and expert_linear."""

import torch

from timing import median_seconds, sets_for


def drawn(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, device="cuda", dtype=torch.float32).to(dtype)


def linear(rows, out, width, backward, wide):
    """y in bf16; where `wide`, in f32, which torch's product of bf16 can give (out_dtype)."""

    def one():
        x, w, dy = drawn(rows, width), drawn(out, width), drawn(rows, out)
        dw = torch.zeros(out, width, device="cuda")
        if not backward:
            return lambda: torch.mm(x, w.t(), out_dtype=torch.float32) if wide else x @ w.t()

        def gradients():
            dx = dy @ w
            dw.add_(torch.mm(dy.t(), x, out_dtype=torch.float32))
            return dx

        return gradients

    bytes_of_one = 2 * (rows * width + out * width + rows * out * 2) + 4 * out * width
    return median_seconds([one() for _ in range(sets_for(bytes_of_one))])


def experts(rows, backward):
    """Rows shared out evenly: torch's grouped product, offsets on the device."""
    width, count = 1024, 16

    def one():
        x, w, dy = drawn(rows, width), drawn(count, width, width), drawn(rows, width)
        ends = torch.arange(1, count + 1, device="cuda", dtype=torch.int32) * (rows // count)
        if not backward:
            return lambda: torch._grouped_mm(x, w.transpose(1, 2), offs=ends)
        return lambda: (torch._grouped_mm(dy, w, offs=ends), torch._grouped_mm(dy.t(), x, offs=ends))

    return median_seconds([one() for _ in range(sets_for(2 * (3 * rows * width + count * width * width)))])


def cases():
    shapes = [(32768, 3072, False), (32768, 1024, False), (1024, 32000, True), (32768, 16, True)]
    for backward in (False, True):
        for rows, out, wide in shapes:
            name = f"linear{'_backward' if backward else ''} {rows} x {out} x 1024{', f32' if wide else ''}"
            yield name, "torch", lambda r=rows, o=out, b=backward, w=wide: linear(r, o, 1024, b, w)
    for rows in (1, 8, 32, 128):
        for out in (3072, 1024):
            yield f"linear {rows} x {out} x 1024", "torch", lambda r=rows, o=out: linear(r, o, 1024, False, False)
    for rows in (65536, 16, 64, 256):
        yield f"expert_linear {rows} x 1024 x 1024, 16 experts", "torch, even", lambda r=rows: experts(r, False)
    yield "expert_linear_backward 65536 x 1024 x 1024, 16 experts", "torch, even", lambda: experts(65536, True)
