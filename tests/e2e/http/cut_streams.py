"""For schemathesis: it reads a stream for as long as it would wait for any answer, and some never end. The status is enough."""
from schemathesis.transport import requests

requests._iter_event_stream = lambda response: iter(())
