"""Section 5.4, Eq. 5: one distribution over all classes from a generalist and its active specialists.

Per case, the full distribution q that minimises ``KL(p_g, q) + sum over m in A of KL(p_m, q)``, where p_g is the
generalist's distribution over the C classes, A the set of active specialists, and p_m specialist m's distribution over
its special classes S_m and one dustbin, against which the q of all classes outside S_m is summed.

**What the minimum looks like.** Less the entropies, which do not depend on q, Eq. 5 is the log-likelihood of counts of
which some were made on merged classes:

    maximise  sum_i c_i log q_i + sum_m d_m log Q_m,    Q_m = sum over i outside S_m of q_i,    sum_i q_i = 1,

with ``c_i = p_g[i] + sum over the m whose S_m holds i of p_m[i]`` and d_m the dustbin of specialist m. At the maximum
every derivative, ``c_i / q_i + sum over the m whose S_m does not hold i of d_m / Q_m``, is one Lagrange multiplier; its
mean under q is ``sum_i c_i + sum_m d_m``, so it is ``N = 1 + |A|``, the mass of all distributions together. With one
``u_m = d_m / Q_m`` per active specialist,

    q_i w_i = c_i,    w_i = N - sum over the m whose S_m does not hold i of u_m.                                   (*)

C unknowns have become |A|. With no active specialist q = p_g, and with one there is a closed form (_one_specialist).

**Plain EM** (em_step) shares each dustbin among its classes in proportion to q and averages: ``q <- (c_i + q_i (N -
w_i)) / N``, whose fixed points are (*). It never raises the objective. The shared part is what slows it: a handful of
steps do where active specialists find the case to be one of theirs, whether they agree or not, and hundreds to
thousands where most of the mass lies in dustbins, each sure that the case is another's.

**Newton** (the method "em": EM's fixed point, not EM's path) solves (*) and ``u_m Q_m = d_m`` as products, with q, w, u
and Q all positive and ``w = N - sum u``, ``Q = sum q`` kept exactly by every step. That is the interior-point method of
linear programming, only that the products tend to c and d instead of zero; a step is one |A| x |A| system.

**How far from the minimum?** For any positive q and u with positive w, not only at the end,

    objective(q / sum q) - minimum <= sum_i phi(q_i w_i; c_i) + sum_m phi(u_m Q_m; d_m),
    phi(x; c) = x - c - c log(x / c),

by duality (the maximum over u of ``sum_i c_i log w_i + sum_m d_m log u_m`` is the minimum over q, up to a constant).
The terms are non-negative and vanish at (*), so every answer comes with a proven bound, and a case is done when its
bound is below the tolerance.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from kdrepro.checks import all_distributions, as_classes, as_logits, as_tensor, check_network, logits_of, with_float64
from kdrepro.networks import Composed
from kdrepro.specialists.solvers import MAX_ITERATIONS, TOLERANCE, in_dustbin, solve
from kdrepro.specialists.specialist import correct_dustbin


def combine(
    generalist: torch.Tensor,
    specialists: Sequence[torch.Tensor],
    classes: Sequence[torch.Tensor],
    *,
    top_n: int = 1,
    method: str = "em",
    tolerance: float | None = None,
    max_iterations: int | None = None,
) -> torch.Tensor:
    """Eq. 5: the distribution over all classes nearest to the generalist's and the active specialists'.

    generalist: [B, C] probabilities. specialists: M of [B, S_m + 1] probabilities, the dustbin last. classes: M lists
    of the S_m special classes, in the specialist's order. Distributions that sum to one within 1e-3 are normalised.
    top_n: a specialist is active where its classes meet the generalist's top_n most probable ones.
    method: "em", the fixed point of EM by Newton's method, or "gradient", the paper's gradient descent on logits.
    tolerance: nats by which a case's objective may exceed the minimum, proven case by case; 1e-12 for "em", 1e-6 for
    "gradient" unless given. max_iterations: 200 and 20,000 unless given; a RuntimeWarning tells of cases cut short.
    Returns q [B, C] in the generalist's dtype (the work is done in float64). Where p_g and every specialist give some
    classes no mass of their own, the minimiser may not be unique; q is then one of them.
    Raises ValueError that names the argument for shapes that do not fit, what is no distribution, a class list that is
    empty, repeats a class, leaves the C classes or leaves none out, an unknown method, or top_n outside 1..C.
    """
    if method not in TOLERANCE:
        raise ValueError(f'method must be "em" or "gradient", not {method!r}.')
    tolerance = TOLERANCE[method] if tolerance is None else tolerance
    max_iterations = MAX_ITERATIONS[method] if max_iterations is None else max_iterations
    if not (tolerance > 0 and max_iterations >= 1):
        raise ValueError(f"tolerance must be positive and max_iterations at least 1: {tolerance}, {max_iterations}.")
    given = as_tensor(generalist, "generalist")
    generalist = with_float64(given)
    with torch.no_grad():
        p_g, p_m, classes = _checked(generalist, specialists, classes)
        is_active = _active(p_g, classes, top_n)
        q, bound = solve(p_g, p_m, classes, is_active, method, tolerance, max_iterations)
        if bool((late := bound > tolerance).any()):
            warnings.warn(
                f"combine stopped after {max_iterations} iterations with {int(late.sum())} of {len(q)} cases not yet "
                f"proven within {tolerance:g} nats of the minimum (the worst: {bound.max():.1e}): raise "
                'max_iterations or tolerance, or use method="em".',
                RuntimeWarning,
                stacklevel=2,
            )
        return _verbatim_where_none(q.to(generalist.dtype), generalist, is_active).to(given.device)


def active(generalist: torch.Tensor, classes: Sequence[torch.Tensor], top_n: int = 1) -> torch.Tensor:
    """Section 5.4: which specialists have a special class among the generalist's n most probable ones.

    generalist: [B, C]. classes: M lists of class indices. Returns bool [B, M].
    Raises ValueError if generalist is no [B, C], top_n lies outside 1..C, or a list names a class that is not there.
    """
    p = as_logits(generalist, "generalist", 2)  # a probability is as good as a logit here: their order counts
    return _active(p, [as_classes(c, p.shape[1], f"classes[{m}]") for m, c in enumerate(classes)], top_n)


def _active(generalist: torch.Tensor, classes: Sequence[torch.Tensor], top_n: int) -> torch.Tensor:
    """As `active`, of what has been looked at."""
    if not 1 <= top_n <= generalist.shape[1]:
        raise ValueError(f"top_n must lie between 1 and the {generalist.shape[1]} classes, not {top_n}.")
    top = generalist.topk(top_n, dim=1).indices  # [B, n]
    member = ~in_dustbin(classes, generalist)  # [M, C]
    return member[:, top].any(-1).T


def objective(
    q: torch.Tensor,
    generalist: torch.Tensor,
    specialists: Sequence[torch.Tensor],
    classes: Sequence[torch.Tensor],
    active: torch.Tensor,
) -> torch.Tensor:
    """Eq. 5's value per case, in nats: the reference that the solvers are tested against.

    q, generalist: [B, C]; specialists: M of [B, S_m + 1]; classes: M of [S_m]; active: bool [B, M]. Returns [B].
    0 log 0 counts as 0, and the value is inf where a p > 0 meets a q of 0.
    """
    value = _kl(generalist, q)
    for m, (p, special) in enumerate(zip(specialists, classes, strict=True)):
        dustbin = q[:, in_dustbin([special], q)[0]].sum(1, keepdim=True)
        full = _kl(p, torch.cat([q[:, special], dustbin], dim=1))
        value = value + torch.where(active[:, m], full, torch.zeros_like(full))
    return value


def em_step(
    q: torch.Tensor,
    generalist: torch.Tensor,
    specialists: Sequence[torch.Tensor],
    classes: Sequence[torch.Tensor],
    active: torch.Tensor,
) -> torch.Tensor:
    """One step of plain EM, which never raises the objective: slow, simple, the second reference.

    Shapes as in objective; q must be positive. E: a specialist's dustbin is shared among the classes outside S_m in
    proportion to q. M: the full distributions, the generalist's and the active specialists', are averaged.
    """
    total = generalist.clone()
    for m, (p, special) in enumerate(zip(specialists, classes, strict=True)):
        outside = q * in_dustbin([special], q)[0]
        full = p[:, -1:] * outside / outside.sum(1, keepdim=True)
        full[:, special] = p[:, :-1]
        total += torch.where(active[:, m : m + 1], full, torch.zeros_like(full))
    return total / (1 + active.sum(1, keepdim=True))


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1)


def _verbatim_where_none(q: torch.Tensor, generalist: torch.Tensor, is_active: torch.Tensor) -> torch.Tensor:
    """q = p_g to the last bit where no specialist is active, if p_g summed to one as well as its dtype can tell."""
    sums = generalist.sum(1, dtype=torch.float64)
    keep = ~is_active.any(1) & ((sums - 1).abs() < 16 * torch.finfo(generalist.dtype).eps)
    return torch.where(keep[:, None], generalist, q)


# --- what is refused ---


def _checked(generalist, specialists, classes) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """The inputs as normalised float64 distributions and index tensors, all on the generalist's device."""
    if len(specialists) != len(classes):
        raise ValueError(
            f"specialists holds {len(specialists)} distributions but classes {len(classes)} lists: "
            "give each specialist its list of special classes."
        )
    (p_g,) = _distributions({"generalist": generalist}, generalist.device)
    checked = [as_classes(c, p_g.shape[1], f"classes[{m}]").to(p_g.device) for m, c in enumerate(classes)]
    named = {f"specialists[{m}]": as_tensor(p, f"specialists[{m}]") for m, p in enumerate(specialists)}
    for m, ((name, p), special) in enumerate(zip(named.items(), checked, strict=True)):
        if p.shape != (len(p_g), len(special) + 1):
            raise ValueError(
                f"{name} is {list(p.shape)} but must be {[len(p_g), len(special) + 1]}: "
                f"the generalist's cases, by the classes of classes[{m}] and one dustbin."
            )
    return p_g, _distributions(named, p_g.device), checked


def _distributions(named: Mapping[str, torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    given = [p.to(device, torch.float64) for p in all_distributions(named)] if named else []
    return [p / p.sum(1, keepdim=True) for p in given]


class Combined(Composed):
    """A generalist with its specialists as one network: inputs to log q of Eq. 5 [B, C], to be used as logits.

    specialists: with a dustbin each; subsets: their special classes; oversamplings: of their dustbins (see
    `correct_dustbin`). A specialist looks only at the cases that make it active.
    Raises ValueError where their numbers differ, for what is no network, for subsets that are none of the generalist's
    classes, and for a specialist whose outputs are not its subset and a dustbin.
    """

    LEAST = 1e-12  # a class's q: its logarithm must be finite
    cases_at_once = 2048  # each specialist looks at few of them

    def __init__(
        self,
        generalist: nn.Module,
        specialists: Sequence[nn.Module],
        subsets: Sequence[torch.Tensor],
        oversamplings: Sequence[float],
        top_n: int = 1,
    ):
        super().__init__()
        count = len(specialists)
        if len(subsets) != count or len(oversamplings) != count:
            raise ValueError(
                f"There are {count} specialists, {len(subsets)} subsets and {len(oversamplings)} oversamplings: give "
                "one of each a specialist."
            )
        check_network(generalist, "generalist")
        self.generalist = generalist
        self.specialists = nn.ModuleList(check_network(s, f"specialists[{i}]") for i, s in enumerate(specialists))
        # Indices on the CPU, where looking at them makes no GPU wait.
        on_cpu = (s.cpu() if isinstance(s, torch.Tensor) else s for s in subsets)
        self.subsets, self.oversamplings, self.top_n = list(on_cpu), list(oversamplings), top_n

    @property
    def members(self) -> list[nn.Module]:
        """The generalist, then its specialists."""
        return [self.generalist, *self.specialists]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs [B, ...] to log q [B, C] of Eq. 5."""
        p = with_float64(logits_of(self.generalist(x), self.generalist, len(x))).double().softmax(1)
        is_active = active(p, self.subsets, self.top_n)
        # Of all specialists at once: a GPU would wait for each answer on its own.
        asked = is_active.T.nonzero()[:, 1].split(is_active.sum(0).tolist())
        opinions = [self._opinion(i, x, which, p) for i, which in enumerate(asked)]
        return combine(p, opinions, self.subsets, top_n=self.top_n).clamp(min=self.LEAST).log().float().to(x.device)

    def _opinion(self, i: int, x: torch.Tensor, which: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """What specialist i says of these cases, and nothing of the others: [B, S_m + 1]."""
        network, outputs = self.specialists[i], len(self.subsets[i]) + 1
        logits = p.new_zeros(len(p), outputs)
        if len(which):
            asked = logits_of(network(x[which]), network, len(which))
            if asked.shape[1:] != logits.shape[1:]:
                raise ValueError(
                    f"specialists[{i}] returns {list(asked.shape[1:])} a case but must return "
                    f"{list(logits.shape[1:])}: a logit for each class of subsets[{i}], and the dustbin's last."
                )
            logits[which] = correct_dustbin(with_float64(asked).double(), self.oversamplings[i])
        return logits.softmax(1)
