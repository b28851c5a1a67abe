"""What Kubernetes puts into the environment of every pod beside a service named "hyps"."""

from __future__ import annotations

from support.processes import running, serving

from hyps.cli._main import commands

SERVICE = {
    "HYPS_SERVICE_HOST": "10.96.0.17",
    "HYPS_SERVICE_PORT": "8787",
    "HYPS_SERVICE_PORT_HYPS": "8787",
    "HYPS_SERVICE_PORT_HTTP": "8788",
    "HYPS_PORT": "tcp://10.96.0.17:8787",
    **{
        f"HYPS_PORT_{port}_TCP{name}": value
        for port in ("8787", "8788")
        for name, value in {
            "": f"tcp://10.96.0.17:{port}",
            "_PROTO": "tcp",
            "_PORT": port,
            "_ADDR": "10.96.0.17",
        }.items()
    },
    # Of services with names such as hyps-http and hyps-log-format.
    **{
        f"HYPS_{name}_{end}": value
        for name in ("HTTP", "URL", "TOKEN", "CONFIG", "LOG_FORMAT", "HOST", "UDS", "CERT", "FLEET")
        for end, value in {
            "SERVICE_HOST": "10.96.0.18",
            "SERVICE_PORT": "80",
            "PORT": "tcp://10.96.0.18:80",
            "PORT_80_TCP": "tcp://10.96.0.18:80",
        }.items()
    },
}


def test_a_hub_and_its_clients_ignore_it() -> None:
    with serving(environment=SERVICE) as (url, _):
        assert url.startswith("hyps://127.0.0.1:")
        with running("sub", "news", "--count", "1", "--url", url, environment=SERVICE) as sub:
            assert sub.read_line(sub.process.stderr) == "subscribed news\n"
            with running("pub", "news", "hello", "--url", url, environment=SERVICE) as pub:
                assert pub.end()[0] == 0
            assert sub.end() == (0, "news: hello\n", "")
        with running("bench", "--msgs", "10", "--url", url, environment=SERVICE) as bench:
            assert bench.end()[0] == 0


def test_demo_ignores_it() -> None:
    with running("demo", environment=SERVICE) as demo:
        code, _, err = demo.end()
        assert (code, err) == (0, "")


def test_no_option_of_any_command_takes_it() -> None:
    taken = {
        parameter.envvar
        for command in commands.commands.values()
        for parameter in command.params
        if isinstance(parameter.envvar, str)
    }
    assert {"HYPS_URL", "HYPS_LOG_FORMAT"} <= taken
    # A port is no URL.
    assert taken & {*SERVICE} == {"HYPS_PORT"}
