"""The one door for what a user hands in: tensors, arrays, labels, logits, networks and what these return.

Whatever means one thing only is taken (a NumPy array, int32 labels, a network's output with `logits` in it); all else
is refused with a ValueError of one sentence that names the argument, what is wrong with it, and what to do.
"""

import contextlib
import operator
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

NO_LABEL = -100  # a case without a label, as PyTorch has it: the hard loss leaves it out, the soft one does not
SUM_TOLERANCE = 1e-3  # how far a distribution's sum may be from one
ARRAY_KINDS = "biuf"  # NumPy's: booleans, integers with and without a sign, floats


def as_tensor(value: Any, name: str) -> torch.Tensor:
    """A dense tensor of numbers, from one, from a NumPy array or whatever turns into one, or from equal tensors.

    Memory is shared where that is possible. Raises ValueError.
    """
    if isinstance(value, torch.Tensor):
        return _dense(value, name)
    if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor):
        return _stacked(value, name)
    if isinstance(value, str | bytes | Mapping) or not (hasattr(value, "__array__") or isinstance(value, list | tuple)):
        raise ValueError(f"{name} must be a tensor or an array, not a {type(value).__name__}.")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} is a masked array with masked values: fill them, or leave these cases out.")
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} has rows of different lengths: it must be one array of numbers.") from None
    if array.dtype.kind not in ARRAY_KINDS or array.dtype.itemsize > 8:
        raise ValueError(f"{name} must hold numbers, not {_odd_values(array)}.")
    # PyTorch takes the processor's own order of bytes, no steps backwards, and memory that may be written to.
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    usable = array.flags.writeable and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if usable else array.copy())


def _dense(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise ValueError(f"{name} is a sparse or nested tensor: pass {name}.to_dense(), or padded cases.")
    if tensor.is_quantized:
        raise ValueError(f"{name} is quantised: pass {name}.dequantize().")
    if tensor.is_complex():
        raise ValueError(f"{name} is complex: pass its real part, or its magnitude.")
    return tensor


def _stacked(tensors: list | tuple, name: str) -> torch.Tensor:
    odd = [t for t in tensors if not isinstance(t, torch.Tensor) or t.shape != tensors[0].shape]
    if odd:
        shape = list(odd[0].shape) if isinstance(odd[0], torch.Tensor) else type(odd[0]).__name__
        raise ValueError(
            f"{name} has one of {shape} beside {list(tensors[0].shape)}: all must be tensors of one shape."
        )
    return torch.stack([_dense(tensor, name) for tensor in tensors])


def _odd_values(array: np.ndarray) -> str:
    """What an array holds in place of numbers, with an example."""
    flat = array.reshape(-1)
    if array.dtype != object or not len(flat):
        return f"{array.dtype}"
    i = next((i for i, one in enumerate(flat) if not isinstance(one, int | float)), 0)
    return f"{flat[i]!r} (number {i})"


def as_logits(value: Any, name: str, dims: int | None = None) -> torch.Tensor:
    """Logits [..., C], or of so many dimensions; float16 and bfloat16 stay as they are.

    Raises ValueError for what is no floating-point tensor with at least one number.
    """
    plain = type(value) is torch.Tensor and value.layout is torch.strided
    logits = value if plain else as_tensor(value, name)
    if plain and logits.dim() == dims and logits.is_floating_point() and logits.numel():
        return logits  # as in every step of a training
    shape = {2: "[cases, classes]", 3: "[networks, cases, classes]"}.get(dims)
    if shape and logits.dim() != dims:
        raise ValueError(f"{name} must be {shape}, not {list(logits.shape)}.")
    if logits.dim() == 0:
        raise ValueError(f"{name} must be [..., classes], not a single number.")
    if not torch.is_floating_point(logits):
        raise ValueError(f"{name} must be floating point, not {logits.dtype}.")
    if logits.numel() == 0:
        raise ValueError(f"{name} is empty ({list(logits.shape)}): there is no case to average over.")
    return logits


def check_numbers(logits: torch.Tensor, name: str, infinite: bool = True) -> None:
    """Raises ValueError for NaN and +inf, and for -inf (the log of a probability 0) where all of a case's are.

    infinite: whether -inf may stand beside finite logits.
    """
    # amax passes a NaN on, and reads each number once where isfinite() would write them first.
    if not bool((logits.detach().amax(-1).abs() < torch.inf).all()):
        raise ValueError(f"{name} holds NaN or +inf, or a case with no finite logit.")
    if not infinite and bool((logits.detach().amin(-1) == -torch.inf).any()):
        raise ValueError(
            f"{name} holds -inf, the logit of a class with probability 0, which can't be matched: "
            "use soft targets, which take it, or clamp it."
        )


def are_probabilities(logits: torch.Tensor) -> bool:
    """Whether what is called logits [B, C] is rather probabilities: none negative, each case's sum one."""
    p = wide(logits.detach())
    if p.dim() != 2 or p.shape[1] < 2 or not bool((p >= 0).all()):
        return False
    return bool(((p.sum(1) - 1).abs() < SUM_TOLERANCE).all())


def wide(logits: torch.Tensor) -> torch.Tensor:
    """At least float32: at T = 20 softened logits differ by less than half precision can tell."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def as_distributions(value: Any, name: str) -> torch.Tensor:
    """Probabilities [B, C] of which each case's sum to one within SUM_TOLERANCE; not normalised.

    Raises ValueError, for logits say.
    """
    return all_distributions({name: value})[0]


def all_distributions(values: Mapping[str, Any]) -> list[torch.Tensor]:
    """As `as_distributions` of each, by name; all are looked at together, so that a GPU waits once."""
    found = {name: _probabilities(value, name) for name, value in values.items()}
    fine = [((wide(p).sum(1) - 1).abs() <= SUM_TOLERANCE).all() & (p >= 0).all() for p in found.values()]
    if not bool(torch.stack([one.to(fine[0].device) for one in fine]).all()):
        for name, p in found.items():
            _check_probabilities(p, name)
    return list(found.values())


def _probabilities(value: Any, name: str) -> torch.Tensor:
    p = as_tensor(value, name)
    if p.dim() != 2 or not torch.is_floating_point(p):
        raise ValueError(f"{name} must be probabilities [cases, classes], not {p.dtype} {list(p.shape)}.")
    return p.detach()


def _check_probabilities(p: torch.Tensor, name: str) -> None:
    sums = wide(p).sum(1)
    if bool((bad := sums.isnan()).any()):
        raise ValueError(f"{name} holds NaN in case {_first(bad)}: give probabilities.")
    if bool((bad := (p < 0).any(1)).any()):
        raise ValueError(f"{name} has a negative entry in case {_first(bad)}: give probabilities, not logits.")
    if bool((bad := (sums - 1).abs() > SUM_TOLERANCE).any()):
        case = _first(bad)
        raise ValueError(f"{name} sums to {sums[case]:.6g} in case {case}: probabilities must sum to one.")


def _first(bad: torch.Tensor) -> int:
    return int(bad.nonzero()[0, 0])


def as_labels(
    value: Any, cases: int, classes: int | None = None, name: str = "labels", check: bool = True
) -> torch.Tensor:
    """Class indices int64 [cases] from any kind of integers or booleans; NO_LABEL stays.

    classes: how many there are, None where that is not known yet. check: whether the numbers are looked at, which
    makes a GPU wait.
    Raises ValueError for another shape, one-hot or soft labels, floats, and numbers that are no class.
    """
    labels = as_tensor(value, name)
    if labels.dim() == 2 and len(labels) == cases:
        raise ValueError(f"{name} is {list(labels.shape)}{_columns(labels, name)}.")
    if labels.shape != (cases,):
        raise ValueError(f"{name} is {list(labels.shape)} but there are {cases} cases: it must be [cases].")
    if torch.is_floating_point(labels):
        raise ValueError(
            f"{name} must be class indices (integers), not {labels.dtype}: if they are whole, pass {name}.long()."
        )
    labels = labels.long()
    if check:
        all_labelled(labels, classes, name)
    return labels


def _columns(labels: torch.Tensor, name: str) -> str:
    """What to do with labels of two dimensions."""
    if labels.shape[1] == 1:
        return f" where [cases] is expected: pass {name}.squeeze(1)"
    if bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
        return f", one-hot, where class indices [cases] are expected: pass {name}.argmax(1)"
    return (
        " where class indices [cases] are expected: probabilities are soft targets, so pass their logarithm as "
        "teacher_logits, with soft_targets(temperature=1)"
    )


def all_labelled(labels: torch.Tensor, classes: int | None = None, name: str = "labels") -> bool:
    """Whether no label is NO_LABEL; raises ValueError for one that is no class."""
    if labels.numel() == 0:
        return True
    least, most = (int(number) for number in torch.aminmax(labels))
    if least >= 0 and (classes is None or most < classes):
        return True
    wrong = (labels < 0) & (labels != NO_LABEL)
    if classes is not None:
        wrong |= labels >= classes
    if bool(wrong.any()):
        i = int(wrong.flatten().nonzero()[0])
        bounds = f"between 0 and {classes - 1}" if classes else "0 or more"
        raise ValueError(
            f"{name} must lie {bounds}, or be {NO_LABEL} where a case has none, but number {i} is "
            f"{int(labels.flatten()[i])}."
        )
    return False


def as_classes(value: Any, classes: int, name: str) -> torch.Tensor:
    """Some but not all of the classes, as indices int64 [S] in the given order.

    Raises ValueError for none or all, one that is not there, one that comes twice, and what is no list of integers.
    """
    chosen = as_tensor(list(value) if isinstance(value, range) else value, name)
    if chosen.dim() != 1 or len(chosen) == 0:
        raise ValueError(f"{name} is {list(chosen.shape)}: it must list at least one class.")
    if torch.is_floating_point(chosen) or chosen.dtype == torch.bool:
        raise ValueError(f"{name} must hold class indices (integers), not {chosen.dtype}.")
    chosen = chosen.long()
    if bool((bad := (chosen < 0) | (chosen >= classes)).any()):
        raise ValueError(f"{name} holds {int(chosen[bad][0])}, but the classes are 0 to {classes - 1}.")
    values, times = chosen.unique(return_counts=True)
    if bool((times > 1).any()):
        raise ValueError(f"{name} holds class {int(values[times > 1][0])} more than once: list each class once.")
    if len(chosen) == classes:
        raise ValueError(
            f"{name} holds all {classes} classes, which leaves none for the others, or the dustbin: leave one out."
        )
    return chosen


def check_temperature(temperature: Any) -> float:
    """A positive, finite number. Raises ValueError."""
    number = _number(temperature, "temperature", "a positive number")
    if not 0 < number < float("inf"):
        raise ValueError(f"temperature must be a positive number, not {temperature}.")
    return number


def check_soft_weight(soft_weight: Any, name: str = "soft_weight") -> float:
    """A number from 0 to 1. Raises ValueError."""
    number = _number(soft_weight, name, "a number between 0 and 1")
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {soft_weight}.")
    return number


def check_not_negative(value: Any, name: str) -> float:
    """A finite number of at least 0. Raises ValueError."""
    number = _number(value, name, "a number of at least 0")
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} must be a number of at least 0, not {value}.")
    return number


def with_float64(t: torch.Tensor) -> torch.Tensor:
    """The tensor where it can become float64: on the CPU, if it is on one of Apple's GPUs, which have none."""
    return t.cpu() if t.device.type == "mps" else t


def check_whole(value: Any, name: str, least: int | None = None) -> int:
    """A whole number of any kind, NumPy's or PyTorch's too, of at least `least` if given. Raises ValueError."""
    with contextlib.suppress(TypeError):
        number = operator.index(value)
        if not isinstance(value, bool) and (least is None or number >= least):
            return number
    bound = "" if least is None else f" of at least {least}"
    raise ValueError(f"{name} must be a whole number{bound}, not {value!r}.")


def _number(value: Any, name: str, what: str) -> float:
    """A float from any kind of number; text, booleans and tensors of several, or with a gradient, are none."""
    if isinstance(value, torch.Tensor) and value.requires_grad:
        raise ValueError(f"{name} requires a gradient, which no loss here passes on: give a plain number.")
    if not isinstance(value, bool | str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise ValueError(f"{name} must be {what}, not {value!r}.")


# --- networks -------------------------------------------------------------------------------------


def as_sizes(value: Any, name: str, count: int = 1, least: int = 1) -> list[int]:
    """At least `count` whole numbers, each of at least `least`. Raises ValueError."""
    sizes = []
    with contextlib.suppress(TypeError):
        sizes = list(value)
    if len(sizes) < count:
        raise ValueError(f"{name} must list {count} or more whole numbers, not {value!r}.")
    return [check_whole(size, f"{name}[{i}]", least) for i, size in enumerate(sizes)]


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself, out of DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = network.module
        if inner is None:
            return network
        network = inner


def check_network(network: Any, name: str = "network") -> nn.Module:
    """Raises ValueError for what is no network, and for one whose layers do not know their sizes yet."""
    if not isinstance(network, nn.Module):
        hint = ": average several with ensembles.Average" if isinstance(network, list | tuple) else ""
        raise ValueError(f"{name} must be a torch.nn.Module, not a {type(network).__name__}{hint}.")
    if any(isinstance(p, nn.parameter.UninitializedTensorMixin) for p in network.parameters()):
        raise ValueError(f"{name} has lazy layers whose sizes are not known yet: call it on one batch first.")
    return network


def network_dtype(network: nn.Module) -> torch.dtype:
    """The dtype of a network's first floating-point parameter or buffer; float32 where it has none."""
    tensors = (*network.parameters(), *network.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def check_device(network: nn.Module, device: torch.device, name: str = "network") -> None:
    """Raises ValueError where a network has all of its parameters elsewhere than the cases."""
    places = {p.device for p in network.parameters()}
    if places and device not in places and _numbered(device) not in places:
        raise ValueError(f"{name} is on {places.pop()} but the cases are on {device}: move one of them.")


def _numbered(device: torch.device) -> torch.device:
    """A device by its number, as tensors there have it: "cuda" is the current one."""
    return device if device.index is not None else torch.empty(0, device=device).device


def check_inputs(network: nn.Module, inputs: torch.Tensor) -> None:
    """Raises ValueError for a network that looks numbers up and would get them scaled as pixels are."""
    if inputs.dtype == torch.uint8 and any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in network.modules()):
        raise ValueError(
            "inputs is uint8, which is taken for pixels and divided by 255, but the network looks ids up in an "
            "embedding: pass inputs.long()."
        )


def warn_of_probabilities(logits: torch.Tensor, network: nn.Module) -> None:
    """Warns where a network's outputs are probabilities, as with a softmax for its last layer."""
    if len(logits) > 1 and are_probabilities(logits):
        warnings.warn(
            f"{type(unwrapped(network)).__name__} returns probabilities, which a loss takes for logits: leave its last "
            "softmax out, or return log p.",
            stacklevel=3,
        )


def logits_of(output: Any, network: nn.Module, cases: int) -> torch.Tensor:
    """The logits in what a network returned: the tensor itself, or `logits` of a mapping or an object.

    Raises ValueError for anything else, and for logits of another number of cases.
    """
    if isinstance(output, torch.Tensor):
        if output.dim() >= 2 and len(output) == cases:
            return output
        found = output
    else:
        found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    name = type(unwrapped(network)).__name__
    if not isinstance(found, torch.Tensor):
        raise ValueError(
            f"{name} returned a {type(output).__name__}, not logits: let it return the tensor [cases, classes] alone, "
            "or as `logits` of a dict or an object."
        )
    if found.dim() < 2 or len(found) != cases:
        raise ValueError(f"{name} returned {list(found.shape)} for {cases} cases: logits must be [cases, classes].")
    return found
