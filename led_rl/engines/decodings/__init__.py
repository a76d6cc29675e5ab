"""The engine's decodings: one small file each, over a pure function of the method layer. See docs/decodings.md."""

from led_rl.engines.decode_step import Decoding
from led_rl.engines.decodings.led import draw_led
from led_rl.engines.decodings.led_reference import draw_led_reference
from led_rl.engines.decodings.top_k_control import draw_top_k_control

DRAWS: dict[str, Decoding] = {
    "led": draw_led,
    "led_reference": draw_led_reference,
    "top_k_control": draw_top_k_control,
}
