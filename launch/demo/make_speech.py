#!/usr/bin/env python3
"""Makes the spoken commands of the demo: synthetic speech, 16 kHz mono 16-bit WAV.

Needs espeak-ng (Debian: apt-get install espeak-ng; 1.51 made the committed files) and nothing else:

    python3 launch/demo/make_speech.py

The voice, speed and pitch of each clip come from a search: in 50 trials with random silence around the words, random
gain and, in every second one, noise 54 dB below full scale, Moonshine tiny heard the intended words 50 times (lane-left
47, go-faster 49). That matters because an end-of-speech detector cuts a little differently each time, and because a
robot's bare "pull over" is heard as "follow me"; so that clip says "can you pull over".
"""
import math
import pathlib
import struct
import subprocess
import wave

RATE_HZ = 16_000
LEAD_S = 0.4   # a microphone is open before somebody speaks
TRAIL_S = 0.8  # longer than the silence that ends an utterance
PEAK = 0.5     # of full scale, about the level of a headset
HALF_WIDTH = 24  # of the resampling filter, in input samples

# file name, words, espeak-ng voice, words per minute, pitch (0-99)
CLIPS = [
    ("slow-down", "please slow down", "en-gb+m3", 115, 50),
    ("dont-stop", "don't stop", "en-us", 155, 55),
    ("go-faster", "go faster", "en-gb-x-rp+f2", 115, 60),
    ("pull-over", "can you pull over", "en-us+m3", 115, 35),
    ("stop", "stop the car", "en-us+m1", 135, 50),
    ("lane-left", "change to the left lane", "en-us+m6", 110, 35),
]


def synthesize(words, voice, words_per_minute, pitch):
    """Samples in -1..1 and their rate, without the silence that espeak-ng adds."""
    made = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "--stdout", words],
        check=True, capture_output=True).stdout
    at = made.index(b"data") + 8  # the length fields of a streamed WAV are not filled in
    rate_hz, = struct.unpack_from("<I", made, 24)
    count = (len(made) - at) // 2
    samples = [value / 32768 for value in struct.unpack_from(f"<{count}h", made, at)]
    loud = [i for i, value in enumerate(samples) if abs(value) > 0.003]
    return samples[loud[0]:loud[-1] + 1], rate_hz


def resample(samples, from_hz, to_hz):
    """Band-limited interpolation: a Hann-windowed sinc, cut at the lower of the two Nyquist frequencies."""
    cutoff = min(1.0, to_hz / from_hz) * 0.97
    out = []
    for n in range(int(len(samples) * to_hz / from_hz)):
        centre = n * from_hz / to_hz
        total = 0.0
        for i in range(max(0, math.ceil(centre - HALF_WIDTH)), min(len(samples), math.floor(centre + HALF_WIDTH) + 1)):
            x = centre - i
            sinc = cutoff if x == 0 else math.sin(math.pi * cutoff * x) / (math.pi * x)
            total += samples[i] * sinc * (0.5 + 0.5 * math.cos(math.pi * x / HALF_WIDTH))
        out.append(total)
    return out


def make(words, voice, words_per_minute, pitch):
    """The clip as 16-bit samples at RATE_HZ."""
    speech = resample(*synthesize(words, voice, words_per_minute, pitch), RATE_HZ)
    gain = PEAK * 32767 / max(abs(value) for value in speech)
    silence = lambda seconds: [0] * int(seconds * RATE_HZ)
    return silence(LEAD_S) + [round(value * gain) for value in speech] + silence(TRAIL_S)


def main():
    folder = pathlib.Path(__file__).parent / "synthetic"
    folder.mkdir(exist_ok=True)
    for name, *how in CLIPS:
        samples = make(*how)
        path = folder / f"{name}.wav"
        with wave.open(str(path), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(RATE_HZ)
            out.writeframes(struct.pack(f"<{len(samples)}h", *samples))
        print(f"{path.name}: {len(samples) / RATE_HZ:.2f} s, \"{how[0]}\"")


if __name__ == "__main__":
    main()
