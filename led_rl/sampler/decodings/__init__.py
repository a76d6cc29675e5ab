"""The engine's decodings: one small file each, over a pure function of the method layer. See docs/decodings.md."""

from led_rl.sampler.decodings.dola import draw_dola
from led_rl.sampler.decodings.latent_noise import draw_latent_noise
from led_rl.sampler.decodings.led import draw_led
from led_rl.sampler.decodings.led_reference import draw_led_reference
from led_rl.sampler.decodings.near_final import draw_near_final
from led_rl.sampler.decodings.soft_thinking import draw_soft_thinking, draw_soft_thinking_gumbel
from led_rl.sampler.decodings.top_k_control import draw_top_k_control
from led_rl.sampler.step import Decoding

DRAWS: dict[str, Decoding] = {
    "led": draw_led,
    "led_reference": draw_led_reference,
    "top_k_control": draw_top_k_control,
    "dola": draw_dola,
    "near_final": draw_near_final,
    "soft_thinking": draw_soft_thinking,
    "soft_thinking_gumbel": draw_soft_thinking_gumbel,
    "latent_noise": draw_latent_noise,
}
