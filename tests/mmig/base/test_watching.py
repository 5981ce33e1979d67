"""Loops that can be watched and stopped from outside: everybody who samples tells, and ends where it is told to."""

from threading import Thread

import pytest
import torch
from diffusers import DDIMScheduler
from transformers import LlamaConfig, LlamaForCausalLM

from mmig.base.watching import Progress, Stopped, steps, tell, watching
from mmig.diffusion.inversion import invert, make_ladder, reconstruct
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import sample
from mmig.language.greedy import plain_generation

SCHEDULER = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


class After:
    """A watcher that notes all, and stops once so many steps of a loop are done."""

    def __init__(self, done: int | None = None) -> None:
        self.done, self.seen = done, list[Progress]()

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if progress.done == self.done:
            raise Stopped


def seeds() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(0)]


def sampled(watched: list[int] | None = None) -> torch.Tensor:
    def denoiser(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if watched is not None:
            watched.append(int(timesteps[0]))
        return 0.1 * noisy

    return sample(denoiser, SCHEDULER, (4, 8, 8), 5, seeds())


def test_a_loop_tells_before_each_step_and_after_the_last() -> None:
    watcher = After()
    with watching(watcher):
        assert list(steps("counting", "ab")) == ["a", "b"]
    assert watcher.seen == [Progress("counting", done, 2) for done in range(3)]


def test_a_loop_of_unknown_length_tells_none() -> None:
    watcher = After()
    with watching(watcher):
        list(steps("counting", iter("ab")))
    assert {progress.count for progress in watcher.seen} == {None}


def test_who_watched_no_longer_hears_anything_and_other_threads_never_did() -> None:
    watcher = After()
    with watching(watcher):
        other = Thread(target=tell, args=("elsewhere", 0))
        other.start()
        other.join()
    tell("later", 0)
    assert watcher.seen == []


def test_the_inner_watcher_hears_and_then_the_outer_one_again() -> None:
    outer, inner = After(), After()
    with watching(outer):
        with watching(inner):
            tell("inside", 0)
        tell("outside", 0)
    assert [progress.what for progress in (*outer.seen, *inner.seen)] == ["outside", "inside"]


def test_watching_changes_no_bit_of_a_sample() -> None:
    watcher = After()
    with watching(watcher):
        watched = sampled()
    assert torch.equal(watched, sampled())
    assert watcher.seen == [Progress("denoising", done, 5) for done in range(6)]


@pytest.mark.parametrize("done", [0, 3])
def test_the_denoiser_is_not_asked_again_once_it_is_stopped(done: int) -> None:
    calls: list[int] = []
    with watching(After(done)), pytest.raises(Stopped):
        sampled(calls)
    assert len(calls) == done


def test_inversion_is_two_loops() -> None:
    watcher, process, ladder = After(), NoiseProcess.from_scheduler(SCHEDULER), make_ladder(SCHEDULER, 4)
    with watching(watcher):
        noisy = invert(lambda latents, _: 0.1 * latents, process, torch.ones(1, 4, 8, 8), ladder)
        reconstruct(lambda latents, _: 0.1 * latents, process, noisy, ladder)
    assert [(one.what, one.done) for one in watcher.seen] == [
        *(("inversion", done) for done in range(5)),
        *(("denoising", done) for done in range(5)),
    ]


def test_a_language_model_tells_each_token_and_stops_between_two() -> None:
    settings = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, eos_token_id=None, pad_token_id=0, **settings)).eval()
    watcher, prompt = After(4), torch.tensor([[1, 2, 3]])
    with plain_generation(model), watching(watcher), pytest.raises(Stopped):
        model.generate(prompt, max_new_tokens=10)
    assert [progress.done for progress in watcher.seen] == [0, 1, 2, 3, 4]
    assert {(progress.what, progress.count) for progress in watcher.seen} == {("writing", None)}
    assert not model._forward_pre_hooks
