"""Does Python's stomp.py work with this broker, in all three versions of STOMP, over TLS with a password?

Run by tests/third-party/run, which starts the broker and sets MUSTER_TEST_*.
"""

import logging
import os
import queue
import select
import unittest
from pathlib import Path

import stomp
from stomp.exception import ConnectFailedException

HOST = "127.0.0.1"
PORT = int(os.environ["MUSTER_TEST_PORT"])
CA = os.environ["MUSTER_TEST_CA"]
OTHER_CA = os.environ["MUSTER_TEST_OTHER_CA"]
USER = "python"
PASSWORD = Path(os.environ["MUSTER_TEST_PASSWORD_FILE"]).read_text().strip()

# Every wait of these tests ends after this many seconds, with a failure.
LIMIT = 15


class Ear(stomp.ConnectionListener):
    """What arrives, in queues that a test can wait on."""

    def __init__(self):
        self.connected = queue.Queue()
        self.messages = queue.Queue()
        self.receipts = queue.Queue()
        self.errors = queue.Queue()
        self.beats = queue.Queue()

    def on_connected(self, frame):
        self.connected.put(frame)

    def on_message(self, frame):
        self.messages.put(frame)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame):
        self.errors.put(frame)

    def on_heartbeat(self):
        self.beats.put(True)


class Client:
    """One connection of a version, with TLS verified."""

    KINDS = {
        "1.0": stomp.StompConnection10,
        "1.1": stomp.StompConnection11,
        "1.2": stomp.StompConnection12,
    }

    def __init__(self, version, heartbeats=None, ca=CA):
        settings = {"reconnect_attempts_max": 1, "auto_decode": False, "try_loopback_connect": False}
        if heartbeats:
            settings["heartbeats"] = heartbeats
        self.version = version
        self.ear = Ear()
        self.stomp = self.KINDS[version](host_and_ports=[(HOST, PORT)], **settings)
        # With ca_certs it verifies the chain, and by default that the certificate is for HOST.
        self.stomp.set_ssl(for_hosts=[(HOST, PORT)], ca_certs=ca)
        self.stomp.set_listener("ear", self.ear)

    def log_in(self, user=USER, password=PASSWORD):
        self.stomp.connect(user, password, wait=True)
        return self

    def subscribe(self, destination, id="1"):
        """Subscribes, and waits until the broker has done so."""
        self.stomp.subscribe(destination, id=id, ack="auto", receipt=f"subscribed-{id}")
        self.receipt(f"subscribed-{id}")

    def send(self, destination, body, **headers):
        self.stomp.send(destination, body, headers=headers)

    def message(self):
        return self.ear.messages.get(timeout=LIMIT)

    def receipt(self, expected):
        found = self.ear.receipts.get(timeout=LIMIT)
        assert found == expected, f"receipt {found}, not {expected}"

    def refusal(self):
        """The code of the ERROR that comes; the broker must close after it."""
        frame = self.ear.errors.get(timeout=LIMIT)
        assert frame.headers["message"], "an ERROR without a text"
        # Over TLS stomp.py 9.0.0 takes the end of a connection for silence, so the socket itself is asked.
        end = select.poll()
        end.register(self.stomp.transport.socket.fileno(), select.POLLRDHUP | select.POLLHUP)
        assert end.poll(LIMIT * 1000), "the broker did not close the connection"
        self.stomp.transport.running = False
        return frame.headers["muster-code"]

    def leave(self):
        if self.stomp.is_connected():
            self.stomp.disconnect(receipt="bye")
            self.receipt("bye")


class EveryVersion:
    """What all versions can do; a subclass names the version."""

    version = ""

    def client(self, **settings):
        client = Client(self.version, **settings).log_in()
        self.addCleanup(client.leave)
        return client

    def test_the_version_is_agreed(self):
        frame = self.client().ear.connected.get(timeout=LIMIT)
        self.assertEqual(frame.headers.get("version", "1.0"), self.version)
        self.assertIn("session", frame.headers)

    def test_a_subscriber_gets_what_is_sent(self):
        listener, sender = self.client(), self.client()
        listener.subscribe("/topic/third.news.*")
        sender.send("/topic/third.news.today", "héllo", **{"content-type": "text/plain", "priority": "7", "x-mine": "kept"})
        message = listener.message()
        self.assertEqual(message.body, "héllo".encode())
        self.assertEqual(message.headers["destination"], "/topic/third.news.today")
        self.assertEqual(message.headers["priority"], "7")
        self.assertEqual(message.headers["x-mine"], "kept")
        self.assertTrue(message.headers["message-id"])
        if self.version != "1.0":
            self.assertEqual(message.headers["subscription"], "1")

    def test_headers_arrive_as_they_were_meant(self):
        # stomp.py undoes escapes in 1.0 too, which has none.
        text = "a:b/c" if self.version == "1.0" else "a:b\\c\nd"
        client = self.client()
        client.subscribe("/topic/third.headers")
        client.send("/topic/third.headers", "x", **{"x-odd": text})
        self.assertEqual(client.message().headers["x-odd"], text)

    def test_receipts(self):
        client = self.client()
        client.subscribe("/topic/third.receipts")
        client.stomp.send("/topic/third.receipts", "x", receipt="sent-1")
        client.receipt("sent-1")
        self.assertEqual(client.message().body, b"x")
        client.stomp.unsubscribe(id="1", receipt="unsubscribed-1")
        client.receipt("unsubscribed-1")
        client.stomp.send("/topic/third.receipts", "nobody listens", receipt="sent-2")
        client.receipt("sent-2")
        self.assertTrue(client.ear.messages.empty())

    def test_bodies_may_hold_nul(self):
        client = self.client()
        client.subscribe("/topic/third.nul")
        body = b"\x00before\x00\x00after\n\x00" + bytes(range(256)) * 100
        client.send("/topic/third.nul", body)
        self.assertEqual(client.message().body, body)

    def test_sending_where_one_may_not_ends_the_connection(self):
        for destination in ["/topic/elsewhere.news", "/topic/readable.news", "/topic/prod.service.restart"]:
            client = Client(self.version).log_in()
            client.send(destination, "x")
            self.assertIn(client.refusal(), ["denied", "target-required"], destination)

    def test_a_refused_send_says_denied(self):
        client = Client(self.version).log_in()
        client.stomp.send("/topic/elsewhere.news", "x", receipt="never")
        self.assertEqual(client.refusal(), "denied")
        self.assertTrue(client.ear.receipts.empty())

    def test_subscribing_to_more_than_one_may_read_is_denied(self):
        for pattern in ["/topic/elsewhere.news", "/topic/>", "/topic/*.news"]:
            client = Client(self.version).log_in()
            client.stomp.subscribe(pattern, id="1")
            self.assertEqual(client.refusal(), "denied", pattern)

    def test_a_stamp_of_the_broker_cannot_be_forged(self):
        client = Client(self.version).log_in()
        client.send("/topic/third.news", "x", **{"muster-caller": "admin"})
        self.assertEqual(client.refusal(), "forbidden-header")

    def test_request_and_reply(self):
        asker, answerer, guesser = self.client(), self.client(), Client(self.version).log_in()
        answerer.subscribe("/topic/third.questions")
        asker.subscribe("/temp-queue/answers")
        asker.send("/topic/third.questions", "6 x 9?", **{"reply-to": "/temp-queue/answers", "correlation-id": "q-1"})
        question = answerer.message()
        reply_to = question.headers["reply-to"]
        self.assertTrue(reply_to.startswith("/remote-temp-queue/"), reply_to)
        self.assertEqual(question.headers["correlation-id"], "q-1")
        last = "0" if reply_to[-1] != "0" else "1"
        guesser.send(reply_to[:-1] + last, "forged")
        self.assertEqual(guesser.refusal(), "gone")
        answerer.send(reply_to, "42", **{"correlation-id": "q-1"})
        answer = asker.message()
        self.assertEqual((answer.body, answer.headers["correlation-id"]), (b"42", "q-1"))
        self.assertTrue(asker.ear.messages.empty())

    def test_every_wrong_login_gets_the_same_answer(self):
        for user, password in [(USER, "wrong"), (f"nobody-{self.version}", PASSWORD)]:
            client = Client(self.version)
            with self.assertRaises(ConnectFailedException):
                client.log_in(user, password)
            self.assertEqual(client.ear.errors.get(timeout=LIMIT).headers["muster-code"], "auth-failed")

    def test_the_certificate_is_verified(self):
        with self.assertRaises(ConnectFailedException):
            Client(self.version, ca=OTHER_CA).log_in()


class HeartBeats:
    """From 1.1 on."""

    def test_idle_with_heart_beats_stays_connected(self):
        client = self.client(heartbeats=(500, 500))
        # Eight of the broker's beats are several of its patience.
        for _ in range(8):
            client.ear.beats.get(timeout=LIMIT)
        self.assertTrue(client.stomp.is_connected())
        client.subscribe("/topic/third.idle")
        client.send("/topic/third.idle", "still here")
        self.assertEqual(client.message().body, b"still here")

    def test_a_client_that_falls_silent_is_closed(self):
        client = Client(self.version, heartbeats=(500, 0)).log_in()
        # The library's own thread stops beating, and nothing else is sent.
        client.stomp.heartbeat_terminate_event.set()
        self.assertEqual(client.refusal(), "heart-beat")


class Stomp10(EveryVersion, unittest.TestCase):
    version = "1.0"


class Stomp11(EveryVersion, HeartBeats, unittest.TestCase):
    version = "1.1"


class Stomp12(EveryVersion, HeartBeats, unittest.TestCase):
    version = "1.2"


if __name__ == "__main__":
    # The library logs each refusal that is provoked here.
    logging.disable(logging.CRITICAL)
    unittest.main(verbosity=1)
