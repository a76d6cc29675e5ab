"""The methods beside LED (led_rl/led.py): what each decoding is, and pure functions of tensors that know no engine."""
