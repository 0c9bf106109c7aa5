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
from collections.abc import Callable, Sequence
from functools import partial

import torch

SUM_TOLERANCE = 1e-3  # how far a distribution's sum may be from one
TOLERANCE = {"em": 1e-12, "gradient": 1e-6}  # nats above the minimum
MAX_ITERATIONS = {"em": 200, "gradient": 20_000}
FIRST_MU, MU_FACTOR = 1e-3, 0.01  # where Newton's barrier starts, and the factor that lowers it
RIDGE = 5e-15  # times |A|: some times what rounding takes from the diagonal of Newton's matrix
CPU_CHUNK, GPU_CHUNK = 2**18, 2**26  # numbers of the [cases, |A|, C] tensor worked on at once: a cache, or a GPU, full

State = tuple[torch.Tensor, ...]  # one row per case in each


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
    with torch.no_grad():
        p_g, p_m, classes = _checked(generalist, specialists, classes)
        is_active = active(p_g, classes, top_n)
        q, bound = _solve(p_g, p_m, classes, is_active, method, tolerance, max_iterations)
        if bool((late := bound > tolerance).any()):
            warnings.warn(
                f"combine stopped after {max_iterations} iterations with {int(late.sum())} of {len(q)} cases not yet "
                f"proven within {tolerance:g} nats of the minimum (the worst: {bound.max():.1e}): raise "
                'max_iterations or tolerance, or use method="em".',
                RuntimeWarning,
                stacklevel=2,
            )
        return _verbatim_where_none(q.to(generalist.dtype), generalist, is_active)


def active(generalist: torch.Tensor, classes: Sequence[torch.Tensor], top_n: int = 1) -> torch.Tensor:
    """Section 5.4: which specialists have a special class among the generalist's n most probable ones.

    generalist: [B, C]. classes: M lists of class indices. Returns bool [B, M].
    Raises ValueError if top_n lies outside 1..C.
    """
    if not 1 <= top_n <= generalist.shape[1]:
        raise ValueError(f"top_n must lie between 1 and the {generalist.shape[1]} classes, not {top_n}.")
    top = generalist.topk(top_n, dim=1).indices  # [B, n]
    member = ~_outside(classes, generalist)  # [M, C]
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
        dustbin = q[:, _outside([special], q)[0]].sum(1, keepdim=True)
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
        outside = q * _outside([special], q)[0]
        full = p[:, -1:] * outside / outside.sum(1, keepdim=True)
        full[:, special] = p[:, :-1]
        total += torch.where(active[:, m : m + 1], full, torch.zeros_like(full))
    return total / (1 + active.sum(1, keepdim=True))


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1)


def _outside(classes: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """bool [M, C]: whether class i falls into specialist m's dustbin; C and the device are those of `like`."""
    outside = torch.ones(len(classes), like.shape[1], dtype=torch.bool, device=like.device)
    for row, special in zip(outside, classes, strict=True):
        row[special] = False
    return outside


def _verbatim_where_none(q: torch.Tensor, generalist: torch.Tensor, is_active: torch.Tensor) -> torch.Tensor:
    """q = p_g to the last bit where no specialist is active, if p_g summed to one as well as its dtype can tell."""
    sums = generalist.sum(1, dtype=torch.float64)
    keep = ~is_active.any(1) & ((sums - 1).abs() < 16 * torch.finfo(generalist.dtype).eps)
    return torch.where(keep[:, None], generalist, q)


# --- the solvers: every tensor float64, one row per case ---


def _solve(p_g, p_m, classes, is_active, method, tolerance, max_iterations) -> tuple[torch.Tensor, torch.Tensor]:
    """q [B, C] and its bound [B]. Cases are solved together by how many specialists are active in them."""
    c, d = _counts(p_g, p_m, classes, is_active)
    outside = _outside(classes, p_g).to(p_g.dtype)
    q, bound = p_g.clone(), p_g.new_zeros(len(p_g))
    sizes = is_active.sum(1)
    for size in sizes.unique().tolist():
        if size == 0:
            continue
        rows = (sizes == size).nonzero()[:, 0]
        which = is_active[rows].nonzero()[:, 1].view(-1, size)
        chunk = max(1, (CPU_CHUNK if q.device.type == "cpu" else GPU_CHUNK) // (size * q.shape[1]))
        for r, a in zip(rows.split(chunk), which.split(chunk), strict=True):
            cases = c[r], d[r].gather(1, a), outside[a]
            if method == "gradient":
                q[r], bound[r] = _descend_from(*cases, p_g[r], tolerance, max_iterations)
            elif size == 1:
                q[r] = _one_specialist(*cases, p_g[r])
            else:
                q[r], bound[r] = _newton_from(*cases, tolerance, max_iterations)
    return q, bound


def _counts(p_g, p_m, classes, is_active) -> tuple[torch.Tensor, torch.Tensor]:
    """c [B, C], the mass that the generalist and the active specialists give to single classes, and the dustbins d."""
    c, d = p_g.clone(), p_g.new_zeros(is_active.shape)
    for m, (p, special) in enumerate(zip(p_m, classes, strict=True)):
        c.index_add_(1, special, p[:, :-1] * is_active[:, m : m + 1])
        d[:, m] = p[:, -1]
    return c, d


def _one_specialist(c, d, outside, p_g) -> torch.Tensor:
    """The closed form: the plain mean on the special classes, and p_g scaled to the mean of the dustbins on the others.

    On S, w = N = 2, so q = c / 2. Outside, w is one number, so q is proportional to c = p_g, and what S leaves over is
    half of p_g's and the specialist's dustbins. Where p_g is zero on all of it, any split is a minimum: equal shares.
    """
    outside = outside[:, 0]
    rest = (p_g * outside).sum(1, keepdim=True)
    tiny = torch.finfo(p_g.dtype).tiny
    share = torch.where(rest > tiny, p_g / rest.clamp(min=tiny), 1 / outside.sum(1, keepdim=True))
    return torch.where(outside > 0, share * (rest + d) / 2, c / 2)


def _iterate(
    state: State,
    step: Callable[[State], State],
    bound_of: Callable[[State], torch.Tensor],
    answer: Callable[[State], torch.Tensor],
    tolerance: float,
    max_iterations: int,
    check_every: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat `step` until each case's bound is within the tolerance; finished cases leave the working set.

    Returns q [B, C], what `answer` makes of a case's last state, and the bounds [B].
    """
    q, bound = torch.empty_like(state[0]), state[0].new_empty(len(state[0]))
    open_cases = torch.arange(len(q), device=q.device)
    for i in range(1, max_iterations + 1):
        state = step(state)
        if i % check_every and i < max_iterations:
            continue
        now = bound_of(state)
        done = now <= tolerance if i < max_iterations else torch.ones_like(now, dtype=torch.bool)
        if bool(done.any()):
            finished = open_cases[done]
            q[finished], bound[finished] = answer(tuple(x[done] for x in state)), now[done]
            open_cases, state = open_cases[~done], tuple(x[~done] for x in state)
        if not len(open_cases):
            break
    return q, bound


def _excess(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension of phi(x; c) = x - c - c log(x / c), which is x itself where c is zero."""
    return (x - c - torch.xlogy(c, x / c.clamp(min=torch.finfo(c.dtype).tiny))).sum(-1)


def _gather(outside: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Per active specialist, the sum of q over its dustbin classes: [b, A, C], [b, C] -> [b, A]."""
    return (outside @ q[..., None])[..., 0]


def _spread(outside: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Per class, the sum of u over the specialists that have it in their dustbin: [b, A, C], [b, A] -> [b, C]."""
    return (u[:, None] @ outside)[:, 0]


# --- method "em": Newton's method on q w = c + mu and u Q = d + mu, with mu falling to (nearly) zero ---


def _newton_from(c, d, outside, tolerance, max_iterations):
    """Start where q w = c + mu exactly, with w >= 1, and iterate."""
    floor = tolerance / (10 * c.shape[1])  # the bound keeps about C * mu
    u = d.clamp(min=0.1)
    w = 1 + d.shape[1] - _spread(outside, u)
    mu = torch.full_like(c[:, :1], FIRST_MU)
    q = (c + mu) / w
    state = (c, d, outside, q, _gather(outside, q), u, w, mu)
    step = partial(_newton, floor=floor)
    return _iterate(
        state, step, _newton_bound, partial(_newton_answer, tolerance=tolerance), tolerance, max_iterations, 1
    )


def _newton(state: State, floor: float) -> State:
    """One step. Linearised, with dw = -spread(du) and dQ = gather(dq), the products leave an |A| x |A| system in du."""
    c, d, outside, q, Q, u, w, mu = state
    over_q, over_u = q * w - c, u * Q - d
    off_path = (over_q - mu).abs().sum(1, keepdim=True) + (over_u - mu).abs().sum(1, keepdim=True)
    # Far off the path a smaller mu would send the steps along the walls, q = 0 or w = 0, where they are short.
    mu = torch.where(off_path < 10 * c.shape[1] * mu, MU_FACTOR * mu, mu).clamp(min=floor)
    matrix = (outside * (q / w)[:, None]) @ outside.mT
    # Alike specialists leave it singular but for the diagonal, which rounding may lose: a ridge keeps it positive.
    matrix.diagonal(dim1=1, dim2=2).add_(Q / u).mul_(1 + RIDGE * d.shape[1])
    right = (mu - over_u) / u - _gather(outside, (mu - over_q) / w)
    du = torch.cholesky_solve(right[..., None], torch.linalg.cholesky(matrix))[..., 0]
    dw = -_spread(outside, du)
    dq = (mu - over_q - q * dw) / w
    dQ = _gather(outside, dq)
    step_q, step_u = _longest(q, dq, Q, dQ), _longest(u, du, w, dw)
    return c, d, outside, q + step_q * dq, Q + step_q * dQ, u + step_u * du, w + step_u * dw, mu


def _longest(x, dx, y, dy) -> torch.Tensor:
    """The step [b, 1] that stays positive in x and y: one, or 0.99 of the way to where the first of them is zero."""
    shrinking = torch.maximum((-dx / x).amax(1), (-dy / y).amax(1))
    return (0.99 / shrinking.clamp(min=0.99))[:, None]


def _newton_bound(state: State) -> torch.Tensor:
    c, d, _, q, Q, u, w, _ = state
    return _excess(q * w, c) + _excess(u * Q, d)


def _newton_answer(state: State, tolerance: float) -> torch.Tensor:
    """q = c / w, right to the last digits of its smallest classes too, unless some w vanish: there, the iterate q."""
    c, d, outside, q, _, u, w, _ = state
    exact = c / w
    proven = _excess(u * _gather(outside, exact), d) <= tolerance
    q = torch.where(proven[:, None], exact, q)
    return q / q.sum(1, keepdim=True)


# --- method "gradient": the paper's, gradient descent on z with q = softmax(z) ---


def _descend_from(c, d, outside, p_g, tolerance, max_iterations):
    """Start at the logits of p_g mixed with a little of the uniform distribution, so that none is -inf."""
    z = torch.log(0.99 * p_g + 0.01 / p_g.shape[1])
    state = (c, d, outside, z, z, torch.ones_like(z[:, :1]))
    return _iterate(state, _descend, _descend_bound, _descend_answer, tolerance, max_iterations, 10)


def _descend(state: State) -> State:
    """One step of Nesterov's accelerated gradient descent, whose momentum starts anew where it points uphill.

    The curvature is at most N / 2, that of N log sum exp z: the dustbins' logarithms only take from it. So 2 / N is a
    safe step for every case.
    """
    c, d, outside, z, ahead, momentum = state
    total = 1 + d.shape[1]
    q, spread = _at_logits(d, outside, ahead)
    gradient = q * (total - spread) - c
    following = ahead - 2 / total * gradient
    change = following - z
    uphill = (gradient * change).sum(1, keepdim=True) > 0
    momentum = torch.where(uphill, 1, momentum)
    larger = (1 + torch.sqrt(1 + 4 * momentum**2)) / 2
    return c, d, outside, following, following + (momentum - 1) / larger * change, larger


def _at_logits(d, outside, z) -> tuple[torch.Tensor, torch.Tensor]:
    """q = softmax(z), and what u = d / Q takes from w in each class (it may take more than there is)."""
    q = torch.softmax(z, 1)
    u = d / _gather(outside, q).clamp(min=torch.finfo(q.dtype).tiny)
    return q, _spread(outside, u)


def _descend_bound(state: State) -> torch.Tensor:
    """The bound at u = d / Q, shrunk until no w is below c, which it is not at the minimum either (there w = c / q)."""
    c, d, outside, z, _, _ = state
    total = 1 + d.shape[1]
    q, spread = _at_logits(d, outside, z)
    shrink = torch.where(spread > 0, (total - c) / spread, 1).amin(1, keepdim=True).clamp(max=1)
    return _excess(q * (total - shrink * spread), c) + _excess(shrink * d, d)


def _descend_answer(state: State) -> torch.Tensor:
    return torch.softmax(state[3], 1)


# --- what is refused ---


def _checked(generalist, specialists, classes) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """The inputs as normalised float64 distributions and index tensors, all on the generalist's device."""
    if len(specialists) != len(classes):
        raise ValueError(
            f"specialists holds {len(specialists)} distributions but classes {len(classes)} lists: "
            "give each specialist its list of special classes."
        )
    p_g = _distributions(generalist, "generalist", generalist)
    checked = [_checked_classes(special, f"classes[{m}]", p_g) for m, special in enumerate(classes)]
    p_m = []
    for m, (p, special) in enumerate(zip(specialists, checked, strict=True)):
        if p.shape != (len(p_g), len(special) + 1):
            raise ValueError(
                f"specialists[{m}] is {list(p.shape)} but must be {[len(p_g), len(special) + 1]}: "
                f"the generalist's cases, by the classes of classes[{m}] and one dustbin."
            )
        p_m.append(_distributions(p, f"specialists[{m}]", generalist))
    return p_g, p_m, checked


def _distributions(p: torch.Tensor, name: str, like: torch.Tensor) -> torch.Tensor:
    if p.dim() != 2 or not torch.is_floating_point(p):
        raise ValueError(f"{name} must be probabilities [cases, classes], not {p.dtype} {list(p.shape)}.")
    p = p.detach().to(like.device, torch.float64)
    sums = p.sum(1)
    if bool((bad := sums.isnan()).any()):
        raise ValueError(f"{name} holds NaN in case {_first(bad)}: give probabilities.")
    if bool((bad := (p < 0).any(1)).any()):
        raise ValueError(f"{name} has a negative entry in case {_first(bad)}: give probabilities, not logits.")
    if bool((bad := (sums - 1).abs() > SUM_TOLERANCE).any()):
        case = _first(bad)
        raise ValueError(f"{name} sums to {sums[case]:.6g} in case {case}: probabilities must sum to one.")
    return p / sums[:, None]


def _first(bad: torch.Tensor) -> int:
    return int(bad.nonzero()[0, 0])


def _checked_classes(special: torch.Tensor, name: str, p_g: torch.Tensor) -> torch.Tensor:
    special, n = torch.as_tensor(special, device=p_g.device), p_g.shape[1]
    if special.dim() != 1 or len(special) == 0:
        raise ValueError(f"{name} is {list(special.shape)}: it must list at least one special class.")
    if special.dtype == torch.bool or torch.is_floating_point(special):
        raise ValueError(f"{name} must hold class indices (integers), not {special.dtype}.")
    if bool((bad := (special < 0) | (special >= n)).any()):
        raise ValueError(f"{name} holds {int(special[bad][0])}, but the generalist's classes are 0 to {n - 1}.")
    values, times = special.unique(return_counts=True)
    if bool((times > 1).any()):
        raise ValueError(f"{name} holds class {int(values[times > 1][0])} more than once: list each class once.")
    if len(special) == n:
        raise ValueError(f"{name} holds all {n} classes, which leaves none for the dustbin: leave one out.")
    return special.long()
