"""Does stomp.py at one broker talk with ruby-stomp at another, over topics and reply queues, both ways?

Run by tests/third-party/run beside between_brokers.rb, which does the same at the other broker. The argument is the version.
Each side asks on the other's topic and answers what it is asked; it leaves when both have said that they are done.
"""

import queue
import sys
import time

from with_stomp_py import LIMIT, Client

QUESTIONS = 20
OURS, THEIRS = "/topic/third.mesh.to-python", "/topic/third.mesh.to-ruby"
BODY = b"h\xc3\xa9llo \x00 from python, number %d"


class Side:
    def __init__(self, version):
        self.client = Client(version).log_in()
        self.client.subscribe(OURS, "questions")
        self.client.subscribe("/temp-queue/answers", "answers")
        self.answers = []
        self.they_are_done = False

    def ask(self, number):
        headers = {"x-kind": "question", "reply-to": "/temp-queue/answers", "correlation-id": f"python-{number}"}
        self.client.send(THEIRS, BODY % number, **headers)

    def hear(self, seconds):
        """Deals with one message, if one comes in time."""
        try:
            message = self.client.ear.messages.get(timeout=seconds)
        except queue.Empty:
            if not self.client.ear.errors.empty():
                raise AssertionError(f"an ERROR: {self.client.ear.errors.get().headers}") from None
            return
        kind, correlation = message.headers["x-kind"], message.headers.get("correlation-id")
        if kind == "question":
            self.client.send(message.headers["reply-to"], message.body + b" back", **{"x-kind": "answer", "correlation-id": correlation})
        elif kind == "answer":
            self.answers.append((correlation, message.body))
        else:
            self.they_are_done = True


def main(version):
    side, deadline = Side(version), time.monotonic() + 4 * LIMIT
    # Until the brokers have told each other who listens, nobody hears us.
    while not side.answers:
        assert time.monotonic() < deadline, "nobody answered"
        side.ask(0)
        side.hear(0.2)
    for number in range(1, QUESTIONS + 1):
        side.ask(number)
    expected = sorted((f"python-{number}", BODY % number + b" back") for number in range(1, QUESTIONS + 1))
    while len([answer for answer in side.answers if answer[0] != "python-0"]) < QUESTIONS:
        assert time.monotonic() < deadline, f"{side.answers} is all that came"
        side.hear(0.2)
    side.client.send(THEIRS, "done", **{"x-kind": "done"})
    while not side.they_are_done:
        assert time.monotonic() < deadline, "the other side did not end"
        side.hear(0.2)
    found = sorted(answer for answer in side.answers if answer[0] != "python-0")
    assert found == expected, f"{found}, not {expected}"
    side.client.leave()
    print(f"stomp.py: {QUESTIONS} questions to the other broker, each answered once")


if __name__ == "__main__":
    main(sys.argv[1])
