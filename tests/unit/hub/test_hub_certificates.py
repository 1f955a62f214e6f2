"""The authority and the certificates of hubs that the controller makes."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import ansible_runs
import pytest
import tls
from ansible_collections.roverwatch.fleet.plugins.action import hub_certificate as action
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import gateway
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import certificates
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.hub.certificates import CertificateError, HubCertificates
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

NAMES = ["hub-1.example", "localhost", "10.0.0.1", "fd00::1"]
ROOT = Path(__file__).resolve().parents[3]
MONTH = timedelta(days=30)


def ensure(directory: Path, hub: str = "hub-1", names: list[str] = NAMES, **more) -> list[str]:
    """The names of the files that were made."""
    made = HubCertificates(directory, more.pop("now", tls.NOW), **more)
    made.ensure(hub, names)
    return [Path(line.partition(":")[0]).name for line in made.made]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    directory = tmp_path / "inventory" / "pki"
    assert ensure(directory) == ["ca.key", "ca.pem", "hub-1.key", "hub-1.pem"]
    return directory


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_what_is_made_is_what_a_gateway_and_its_robots_need(pki: Path, tmp_path: Path) -> None:
    pair = [(pki / name).read_bytes() for name in ("hub-1.pem", "hub-1.key")]
    assert certificates.server(*pair, NAMES, tls.NOW) == ([], [])
    assert certificates.authorities((pki / "ca.pem").read_bytes(), tls.NOW) == ([], [])
    modes = {path.name: path.stat().st_mode & 0o7777 for path in [pki, *pki.iterdir()]}
    assert modes == {"pki": 0o700, "ca.key": 0o600, "ca.pem": 0o644, "hub-1.key": 0o600, "hub-1.pem": 0o644}


def test_a_tls_client_with_the_authority_gets_through(pki: Path, tmp_path: Path) -> None:
    pair = tls.Pair(load(pki / "hub-1.pem"), load_pem_private_key((pki / "hub-1.key").read_bytes(), None))
    with tls.serving(tmp_path, pair) as port:
        url = f"https://localhost:{port}"
        assert gateway.knock_all([url], (pki / "ca.pem").read_text(), 3.0, 10.0) == {url: None}


def test_the_authority_signs_hubs_and_nothing_below_them(pki: Path) -> None:
    authority = load(pki / "ca.pem")
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert authority.not_valid_after_utc == tls.NOW + timedelta(days=3650)
    assert load(pki / "hub-1.pem").not_valid_after_utc == tls.NOW + timedelta(days=397)


def test_a_second_run_makes_nothing(pki: Path) -> None:
    before = contents(pki)
    assert ensure(pki) == []
    assert contents(pki) == before


def test_a_second_hub_gets_its_own_of_the_same_authority(pki: Path) -> None:
    before = contents(pki)
    assert ensure(pki, "hub-2", ["hub-2"]) == ["hub-2.key", "hub-2.pem"]
    assert before.items() <= contents(pki).items()
    load(pki / "hub-2.pem").verify_directly_issued_by(load(pki / "ca.pem"))


def test_it_is_renewed_in_its_last_thirty_days(pki: Path) -> None:
    end = load(pki / "hub-1.pem").not_valid_after_utc
    assert ensure(pki, now=end - MONTH) == []
    assert ensure(pki, now=end - MONTH + timedelta(seconds=1)) == ["hub-1.pem"]
    assert load(pki / "hub-1.pem").not_valid_after_utc > end


def test_it_is_made_anew_when_a_name_changes(pki: Path) -> None:
    assert ensure(pki, names=list(reversed(NAMES))) == []
    assert ensure(pki, names=NAMES[:2]) == ["hub-1.pem"]
    assert ensure(pki, names=[]) == ["hub-1.pem"]
    assert ensure(pki, names=[]) == []


def test_it_is_made_anew_with_its_key(pki: Path) -> None:
    (pki / "hub-1.key").unlink()
    assert ensure(pki) == ["hub-1.key", "hub-1.pem"]


def test_a_new_authority_makes_all_anew(pki: Path) -> None:
    ensure(pki, "hub-2", ["hub-2"])
    for name in ("ca.key", "ca.pem"):
        (pki / name).unlink()
    assert ensure(pki) == ["ca.key", "ca.pem", "hub-1.pem"]
    assert ensure(pki, "hub-2", ["hub-2"]) == ["hub-2.pem"]


def test_the_authoritys_key_may_be_elsewhere_until_it_is_needed(pki: Path) -> None:
    (pki / "ca.key").unlink()
    before = contents(pki)
    assert ensure(pki) == []
    with pytest.raises(CertificateError, match=r"ca\.key, which signs it, is not in"):
        ensure(pki, names=["hub-9"])
    assert contents(pki) == before


def test_what_cannot_be_read_is_not_replaced(pki: Path) -> None:
    (pki / "ca.pem").write_text("nothing")
    with pytest.raises(CertificateError, match=r"ca\.pem holds no certificate"):
        ensure(pki)
    assert (pki / "ca.pem").read_text() == "nothing"


def test_modes_are_put_right(pki: Path) -> None:
    (pki / "ca.key").chmod(0o644)
    pki.chmod(0o755)
    assert ensure(pki) == ["pki", "ca.key"]
    assert ensure(pki) == []


def test_check_mode_says_what_would_be_made_and_makes_nothing(pki: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert ensure(nowhere, only_say=True) == ["nowhere", "ca.key", "ca.pem", "hub-1.key", "hub-1.pem"]
    assert not nowhere.exists()
    before = contents(pki)
    assert ensure(pki, names=["hub-9"], only_say=True) == ["hub-1.pem"]
    assert ensure(pki, "hub-2", only_say=True) == ["hub-2.key", "hub-2.pem"]
    assert contents(pki) == before


def test_the_task_says_what_was_made_once(tmp_path: Path) -> None:
    def ran(check: bool) -> tuple[bool, int]:
        args = {"directory": str(tmp_path / "pki"), "names": NAMES}
        task = SimpleNamespace(args=args, check_mode=check, async_val=0, diff=False, delegate_to=None)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/nowhere"))
        found = action.ActionModule(task, connection, None, None, None, None).run(
            task_vars={"inventory_hostname": "hub-1"}
        )
        return found["changed"], len(found["diff"])

    assert [ran(check=True), ran(check=False), ran(check=False)] == [(True, 5), (True, 4), (False, 0)]


def test_two_hubs_at_once_have_one_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    both = threading.Barrier(2, timeout=10)
    locked = HubCertificates._locked

    def together(self: HubCertificates):
        both.wait()
        return locked(self)

    monkeypatch.setattr(HubCertificates, "_locked", together)
    threads = [threading.Thread(target=lambda hub=hub: made.extend(ensure(tmp_path, hub, [hub]))) for hub in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["a.key", "a.pem", "b.key", "b.pem", "ca.key", "ca.pem"]
    for hub in "ab":
        load(tmp_path / f"{hub}.pem").verify_directly_issued_by(load(tmp_path / "ca.pem"))


# What the role had before: seen with it, the modules' defaults are part of what they made.
EARLIER = """
- hosts: localhost
  gather_facts: false
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - community.crypto.openssl_privatekey:
        {path: "{{ pki }}/{{ item }}.key", type: ECC, curve: secp256r1, mode: "0600"}
      loop: [ca, hub-1]
    - community.crypto.openssl_csr_pipe:
        privatekey_path: "{{ pki }}/ca.key"
        common_name: Roverwatch hubs
        basic_constraints: [CA:TRUE, "pathlen:0"]
        basic_constraints_critical: true
        key_usage: [keyCertSign, cRLSign]
        key_usage_critical: true
      register: authority
    - community.crypto.x509_certificate:
        path: "{{ pki }}/ca.pem"
        privatekey_path: "{{ pki }}/ca.key"
        csr_content: "{{ authority.csr }}"
        provider: selfsigned
        selfsigned_not_after: +3650d
        mode: "0644"
    - community.crypto.openssl_csr_pipe:
        privatekey_path: "{{ pki }}/hub-1.key"
        common_name: hub-1
        subject_alt_name: ["DNS:hub-1.example", "DNS:localhost", "IP:10.0.0.1", "IP:fd00::1"]
        extended_key_usage: [serverAuth]
      register: hub
    - community.crypto.x509_certificate:
        path: "{{ pki }}/hub-1.pem"
        csr_content: "{{ hub.csr }}"
        provider: ownca
        ownca_path: "{{ pki }}/ca.pem"
        ownca_privatekey_path: "{{ pki }}/ca.key"
        ownca_not_after: +397d
        mode: "0644"
"""


def test_the_files_of_earlier_releases_stay_as_they_are(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    pki.mkdir(mode=0o700)
    (tmp_path / "play.yml").write_text(EARLIER)
    done = ansible_runs.run("ansible-playbook", "-e", f"pki={pki}", tmp_path / "play.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    before = contents(pki)
    assert ensure(pki) == []
    assert ensure(pki, "hub-2") == ["hub-2.key", "hub-2.pem"]
    assert before.items() <= contents(pki).items()
