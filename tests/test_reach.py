"""The modules that a loss moves, and the frames that a context does not see."""

import pytest
import torch
from conftest import OBJECTIVES, stack_of, targets_for_all

from gim_audio.model.sampling import RandomNumbers
from gim_audio.training.step import Step


@pytest.mark.parametrize("reach", [1, 2, 6])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_each_loss_moves_the_modules_that_it_may(tmp_path, kind, reach):
    """Loss 4 alone is given weight; the modules that it moves are 4 and those within reach."""
    model, config = stack_of(tmp_path, f"objective={OBJECTIVES[kind]}", f"model.reach={reach}")
    x = torch.randn(2, 4000, 1)
    targets = targets_for_all(model, x)
    step = Step.joint(model, config)
    moved = set()

    def note(optimizer):
        number = next(n for n, o in step.optimizers.items() if o is optimizer)
        gradients = [p.grad for p in optimizer.parameters if p.grad is not None]
        if any(bool(g.any()) for g in gradients):
            moved.add(number)
        for parameter in optimizer.parameters:
            parameter.grad = None

    step.apply = note
    for number, module in enumerate(model.stack, start=1):
        if number != 4:
            score = module.objective.score

            def silent(*args, score=score, **settings):
                found = score(*args, **settings)
                return type(found)(0 * found.loss, found.accuracy)

            module.objective.score = silent
    step(x, 0, targets)
    assert moved == set(range(max(1, 5 - reach), 5))
    # Nothing is left over for the next step.
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_reach_of_two_is_a_gradient_of_two_losses(tmp_path):
    """Against torch.autograd.grad, loss by loss."""
    model, config = stack_of(tmp_path, "model.reach=2", "training.learning_rate=1.0e-3")
    x = torch.randn(2, 4000, 1)
    random = RandomNumbers(config.training.seed, 0)
    scores = {n: score() for n, score, _ in model.greedy_losses(x, random)}
    expected = {}
    for number, module in enumerate(model.stack, start=1):
        losses = [scores[n].loss for n in (number, number + 1) if n in scores]
        gradients = [
            torch.autograd.grad(
                loss, list(module.parameters()), retain_graph=True, allow_unused=True
            )
            for loss in losses
        ]
        expected[number] = [
            sum(g for g in each if g is not None) for each in zip(*gradients, strict=True)
        ]
    step, found = Step.joint(model, config), {}

    def note(optimizer):
        number = next(n for n, o in step.optimizers.items() if o is optimizer)
        found[number] = [p.grad.clone() for p in optimizer.parameters]
        for parameter in optimizer.parameters:
            parameter.grad = None

    step.apply = note
    step(x, 0)
    assert sorted(found) == list(range(1, 7))
    for number, gradients in found.items():
        for ours, theirs in zip(gradients, expected[number], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_a_context_above_hidden_frames_is_scored_on_the_same(tmp_path):
    units = "{kind: units, number: 4, spans: {starts: 0.2, length: 3}}"
    infonce_ = OBJECTIVES["infonce"]
    model, _ = stack_of(
        tmp_path,
        "model.context={kind: residual, hidden: 6, layers: 2, lookahead: 20}",
        "model.added=[{kind: residual, hidden: 5, layers: 2, lookahead: 20}]",
        f"objective=[{', '.join([infonce_] * 5 + [units] * 2)}]",
    )
    x, seen = torch.randn(2, 4000, 1), {}
    for number in (6, 7):
        objective = model.stack[number - 1].objective

        def note(z, c, numbers, target, ranks, hidden, number=number):
            seen[number] = z, hidden

        objective.score = note
    with torch.no_grad():
        model.stack[5].objective.blank += 7
    for frozen in ((), range(1, 7)):
        seen.clear()
        for number, score, _ in model.greedy_losses(x, RandomNumbers(1, 5), frozen=frozen):
            if number >= 6 and score is not None:
                score()
        assert seen[7][1].any()
        if not frozen:
            assert torch.equal(seen[6][1], seen[7][1])
            contexts = seen[7][0]
        else:  # the same frames of module 6 are hidden when it stands still
            torch.testing.assert_close(seen[7][0], contexts)
