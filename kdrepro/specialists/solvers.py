"""Solvers of Eq. 5: Newton's method on EM's fixed point, and the paper's gradient descent.

Every tensor is float64, one row per case; `combining` explains the mathematics.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch

TOLERANCE = {"em": 1e-12, "gradient": 1e-6}  # nats above the minimum
MAX_ITERATIONS = {"em": 200, "gradient": 20_000}
FIRST_MU, MU_FACTOR = 1e-3, 0.01  # where Newton's barrier starts, and the factor that lowers it
RIDGE = 5e-15  # times |A|: some times what rounding takes from the diagonal of Newton's matrix
CPU_CHUNK, GPU_CHUNK = 2**18, 2**26  # numbers of the [cases, |A|, C] tensor worked on at once: a cache, or a GPU, full
State = tuple[torch.Tensor, ...]  # one row per case in each


def in_dustbin(classes: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """bool [M, C]: whether class i falls into specialist m's dustbin; C and the device are those of `like`."""
    outside = torch.ones(len(classes), like.shape[1], dtype=torch.bool, device=like.device)
    for row, special in zip(outside, classes, strict=True):
        row[special] = False
    return outside


def solve(p_g, p_m, classes, is_active, method, tolerance, max_iterations) -> tuple[torch.Tensor, torch.Tensor]:
    """q [B, C] and its bound [B]. Cases are solved together by how many specialists are active in them."""
    c, d = _counts(p_g, p_m, classes, is_active)
    outside = in_dustbin(classes, p_g).to(p_g.dtype)
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


def _newton_from(c, d, outside, tolerance, max_iterations) -> tuple[torch.Tensor, torch.Tensor]:
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


def _descend_from(c, d, outside, p_g, tolerance, max_iterations) -> tuple[torch.Tensor, torch.Tensor]:
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
