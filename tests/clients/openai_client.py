"""Talks to the built-in demo with the official `openai` client: lists models, chats, streams, completes, fails, speaks.

Usage: python openai_client.py PATH_OF_OMNI_ACTORS
"""

import array
import base64
import io
import json
import shutil
import subprocess
import sys
import urllib.request
import wave
from pathlib import Path

import openai

READY = "listening on http://"


def start(binary):
    """Starts the server on a free port and returns the process with its base URL."""
    process = subprocess.Popen([binary, "serve", "--port", "0", "--log-stats"], stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if READY in line:
            address = line.split(READY)[1].split()[0]
            return process, f"http://{address}"
    raise SystemExit("the server ended before it listened")


def check_models(client):
    models = client.models.list().data
    assert [model.id for model in models] == ["omni-demo"], models


def check_chat(client, question, answer):
    reply = client.chat.completions.create(
        model="omni-demo", messages=[{"role": "user", "content": question}], temperature=0
    )
    assert reply.choices[0].message.content == answer, reply
    assert reply.choices[0].finish_reason == "stop", reply
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens, reply
    return reply.usage.completion_tokens


def check_stream(client, question, answer, tokens):
    stream = client.chat.completions.create(
        model="omni-demo",
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage, reasons = "", None, []
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        usage = chunk.usage or usage
    assert text == answer, text
    assert reasons == ["stop"], reasons
    assert usage.completion_tokens == tokens, usage


def check_completion(client):
    reply = client.completions.create(model="omni-demo", prompt="Hello", max_tokens=5, extra_body={"ignore_eos": True})
    assert reply.usage.completion_tokens == 5, reply
    assert reply.choices[0].finish_reason == "length", reply


def seconds_of_speech(data):
    """Opens a wav file and returns how long it plays; it must be 24 kHz, one channel, and not silent."""
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2), file.getparams()
        samples = array.array("h", file.readframes(file.getnframes()))
    assert max(abs(sample) for sample in samples) > 1000, "it is silent"
    return len(samples) / 24000


def check_speech(client, question, answer):
    reply = client.chat.completions.create(
        model="omni-demo",
        messages=[{"role": "user", "content": question}],
        modalities=["text", "audio"],
        audio={"format": "wav", "voice": "chelsie"},
    )
    message = reply.choices[0].message
    assert message.content == answer and message.audio.transcript == answer, message
    data = base64.b64decode(message.audio.data)
    seconds = seconds_of_speech(data)
    assert 1 < seconds < 10, seconds
    if shutil.which("sox"):
        report = subprocess.run(["sox", "-t", "wav", "-", "-n", "stat"], input=data, capture_output=True)
        assert report.returncode == 0 and b"Length" in report.stderr, report
    return seconds


def check_spoken_stream(client, question, answer, seconds):
    stream = client.chat.completions.create(
        model="omni-demo",
        messages=[{"role": "user", "content": question}],
        modalities=["text", "audio"],
        stream=True,
    )
    text, heard = "", 0.0
    for chunk in stream:
        content = chunk.choices[0].delta.content if chunk.choices else None
        if not content:
            continue
        if chunk.modality == "audio":
            heard += seconds_of_speech(base64.b64decode(content))
        else:
            text += content
    assert text == answer, text
    assert abs(heard - seconds) < 0.001, (heard, seconds)


def check_errors(client):
    try:
        client.chat.completions.create(model="another", messages=[{"role": "user", "content": "hi"}])
    except openai.NotFoundError as error:
        assert "another" in str(error), error
    else:
        raise AssertionError("an unknown model must be refused")
    try:
        client.chat.completions.create(model="omni-demo", messages=[])
    except openai.BadRequestError as error:
        assert error.body["param"] == "messages", error.body
    else:
        raise AssertionError("empty messages must be refused")


def check_metrics(base, requests):
    with urllib.request.urlopen(f"{base}/metrics") as page:
        lines = page.read().decode().splitlines()
    ended = [line for line in lines if line.startswith("vllm:omni_requests_success_total{") and 'reason="stop"' in line]
    assert len(ended) == 1 and float(ended[0].split()[-1]) == requests, ended


def main(binary):
    cases = json.loads((Path(__file__).parent.parent / "questions.json").read_text())["cases"]
    process, base = start(binary)
    try:
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none")
        check_models(client)
        for case in cases:
            tokens = check_chat(client, case["question"], case["answer"])
            check_stream(client, case["question"], case["answer"], tokens)
        check_completion(client)
        for case in cases[:3]:
            seconds = check_speech(client, case["question"], case["answer"])
            check_spoken_stream(client, case["question"], case["answer"], seconds)
        check_errors(client)
        check_metrics(base, 2 * len(cases) + 6)
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0, "the server must end with status 0"
    print(f"openai {openai.__version__}: {2 * len(cases)} answers, speech, completion, models, errors, metrics: ok")


if __name__ == "__main__":
    main(sys.argv[1])
