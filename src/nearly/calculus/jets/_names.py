"""Names of torch's functions by what they do to jets."""

# Linear in the first argument, the others constant.
LINEAR = (
    "sum", "mean", "reshape", "view", "flatten", "unflatten", "ravel", "transpose", "swapaxes", "swapdims",
    "permute", "movedim", "moveaxis", "t", "adjoint", "squeeze", "unsqueeze", "expand", "broadcast_to", "repeat", "tile",
    "flip", "fliplr", "flipud", "roll", "rot90", "cumsum", "diagonal", "diag", "diag_embed", "tril", "triu",
    "trace", "narrow", "select", "index_select", "gather", "take", "take_along_dim", "chunk", "split", "tensor_split",
    "unbind", "interpolate", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "pixel_shuffle", "pixel_unshuffle", "fold", "real", "imag", "conj",
    "clone", "contiguous", "to", "double", "float", "half", "bfloat16", "type", "repeat_interleave", "fft_fft", "fft_ifft",
    "fft_rfft", "fft_irfft", "fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2", "fft_fftn", "fft_ifftn", "fft_fftshift",
    "fft_ifftshift", "view_as_real", "view_as_complex", "resolve_conj", "T", "mT", "H", "mH",
)  # fmt: skip
# Linear in all tensors of their first argument together.
JOINT = (
    "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "row_stack",
)  # fmt: skip
# Linear in each tensor.
MULTILINEAR = (
    "matmul", "mm", "bmm", "mv", "dot", "inner", "outer", "ger", "kron", "einsum", "tensordot", "vdot", "linalg_multi_dot",
    "linalg_vecdot", "cross", "linalg_cross",
)  # fmt: skip
# Linear in the image and in the weights; a bias is added.
CONVOLUTIONS = (
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
)  # fmt: skip
# Of the value alone: they have no derivative, or none but zero.
CONSTANT = (
    "lt", "le", "gt", "ge", "eq", "ne", "less", "less_equal", "greater", "greater_equal", "not_equal", "isnan", "isinf",
    "isfinite", "sign", "sgn", "floor", "ceil", "round", "trunc", "heaviside", "argmax", "argmin", "argsort", "zeros_like",
    "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_full", "new_tensor",
    "new_empty", "is_nested", "is_floating_point", "is_complex", "detach", "allclose", "isclose", "equal", "any", "all",
)  # fmt: skip
