import os

from hypothesis import HealthCheck, settings

# Machines differ in speed, and a protocol without a clock has no deadline to keep. The run that
# counts branches is slow, and finds them with fewer examples; the others look for what is rare.
settings.register_profile(
    "protocol",
    max_examples=30 if os.environ.get("COVERAGE_RUN") else 100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("protocol")
