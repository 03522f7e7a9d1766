"""A configuration that cannot be right ends the start with every problem named."""

import pytest

from tests.integration.account import need_closed_doors
from tests.integration.site import Site

SHOW = "chromactl config show"


def test_network_without_authentication(site: Site) -> None:
    site.configure({"listen.host": "0.0.0.0"})
    site.assert_refused(78, "listen.host 0.0.0.0 is reachable from the network and Chroma has no authentication", SHOW)


def test_address_that_may_come_later(site: Site) -> None:
    """As from DHCP after a reboot: systemd starts the service again."""
    site.configure({"listen.host": "192.0.2.1", "allow_unauthenticated_network": True})
    site.assert_refused(
        75, f"cannot listen on 192.0.2.1:{site.port}: this host has no such address", "with the network"
    )


def test_unknown_keys_and_other_problems_together(site: Site) -> None:
    site.configure({"listen.prot": 1, "log_level": "chatty", "warm.timeout": "soon", "colour": "blue"})
    result = site.refused()
    assert result.code == 78
    assert "Traceback" not in result.output
    for said in (
        ": 4 problems",
        "'listen.prot': unknown key",
        "'colour': unknown key",
        "'log_level':",
        "'warm.timeout'",
    ):
        assert said in result.output


@pytest.mark.parametrize(
    ("text", "fact", "hint"),
    [
        ("listen: {port: 1", "not valid YAML", "check indentation and colons"),
        ("log_level: info\nlog_level: debug\n", "the key 'log_level' is given twice", "check indentation"),
        ("- data_dir\n", "holds a list, not keys and values", "start with `data_dir: …`"),
        ("warm: {timeout: !!timestamp x}\n", "not valid YAML", "plain keys and values"),
    ],
)
def test_not_a_configuration(site: Site, text: str, fact: str, hint: str) -> None:
    site.write_config(text)
    site.assert_refused(78, fact, hint)


def test_missing_file(site: Site) -> None:
    site.config.unlink()
    site.assert_refused(78, f"{site.config}: the configuration file does not exist", "--config FILE")


def test_unreadable_file(site: Site) -> None:
    need_closed_doors()
    site.config.chmod(0o000)
    site.assert_refused(77, f"{site.config}: not readable for this user", "run as root")


def test_control_socket_without_a_directory(site: Site) -> None:
    site.configure({"control_socket": f"{site.root}/none/chromad.sock"})
    site.assert_refused(77, "none/chromad.sock: No such file or directory", "must exist and belong to the service user")


def test_backups_inside_the_data(site: Site) -> None:
    site.configure({"backup.repository": f"{site.data}/backups"})
    site.assert_refused(78, "lies inside data_dir", SHOW)
