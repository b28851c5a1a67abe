from hypothesis import HealthCheck, settings

# As in tests/protocol: machines differ in speed, and nothing here has a deadline to keep.
settings.register_profile(
    "fleet", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("fleet")
