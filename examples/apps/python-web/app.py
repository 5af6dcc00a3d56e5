"""Says which job answered. PORT is where to listen; Flynn sets it and the FLYNN_ variables."""

import os
import signal
import socket
import threading
import time

import waitress

JOB = os.environ.get("FLYNN_JOB_ID", "no job")
HOST = os.environ.get("FLYNN_HOST_ID", socket.gethostname())


def app(environ, start_response):
    body = f"Hello from python-web\nhost {HOST}\njob {JOB}\npath {environ['PATH_INFO']}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    if stopping.is_set():
        headers.append(("Connection", "close"))
    start_response("200 OK", headers)
    return [body]


stopping = threading.Event()
server = waitress.create_server(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8080")), threads=8)


def stop():
    # Routers take a moment to learn that we are going: serve on until they have.
    time.sleep(1)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(
        channel.requests or channel.total_outbufs_len for channel in list(server.active_channels.values())
    ):
        time.sleep(0.02)
    os._exit(0)


def on_sigterm(*_):
    if not stopping.is_set():
        stopping.set()
        threading.Thread(target=stop, daemon=True).start()


signal.signal(signal.SIGTERM, on_sigterm)
print(f"listening on port {server.effective_port}", flush=True)
server.run()
