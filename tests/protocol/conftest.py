from hypothesis import HealthCheck, settings

# Machines differ in speed, and a protocol without a clock has no deadline to keep.
settings.register_profile(
    "protocol", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("protocol")
