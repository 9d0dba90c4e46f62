"""openssl s_client: versions, groups, suites, ALPN, names, resumption; and client certificates that must be refused."""
import pathlib
import re
import shutil
import tempfile

from harness import NAME, Certificates, Echo, Queue, application, case, contains, eventually, need, run, sh

OPENSSL = need("openssl", "openssl")
FIXTURES = pathlib.Path(__file__).parents[2] / "certs-fixtures"
GET = "GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n"


def client(port, *arguments, status=0, ask=""):
    """One handshake, and a request if there is one to ask; what s_client says."""
    command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{port}", *arguments]
    if ask:
        command.append("-ign_eof")
    return sh(*command, stdin=ask, status=status)


@case
def the_chain_and_the_name_are_verified():
    certificates, other = Certificates(), Certificates()
    with application() as app, Queue(app, certificates) as queue:
        verify = ["-verify_return_error", "-verify_hostname"]
        output = client(queue.tls, "-CAfile", certificates.ca, *verify, NAME, ask=GET)
        contains(output, "Verify return code: 0 (ok)", "TLSv1.3", "hello from the application")
        contains(client(queue.tls, "-CAfile", other.ca, *verify, NAME, status=1), "verify error")
        output = client(queue.tls, "-CAfile", certificates.ca, *verify, "kn-user-other", status=1)
        contains(output.lower(), "hostname mismatch")
    certificates.close()
    other.close()


@case
def the_same_certificate_for_every_name_and_for_none():
    certificates = Certificates()
    with application() as app, Queue(app, certificates) as queue:
        for name in [["-noservername"], ["-servername", "kn-user-other"], ["-servername", "data-plane.knative.dev"]]:
            output = client(queue.tls, "-CAfile", certificates.ca, *name)
            contains(output, "Verify return code: 0 (ok)")
    certificates.close()


@case
def every_group_that_is_offered():
    certificates = Certificates()
    with application() as app, Queue(app, certificates) as queue:
        for group, key in [("X25519", "X25519, 253 bits"), ("P-256", "prime256v1, 256 bits"), ("P-384", "secp384r1, 384 bits"),
                           ("P-521", "secp521r1, 521 bits")]:
            contains(client(queue.tls, "-groups", group), "TLSv1.3", key)
        # A group that nobody has in common.
        assert "Cipher is TLS" not in client(queue.tls, "-groups", "X448", status=1)
        # From 3.5 on OpenSSL knows the hybrid group.
        version = tuple(int(part) for part in re.search(r"OpenSSL (\d+)\.(\d+)", sh(OPENSSL, "version")).groups())
        if version >= (3, 5):
            contains(client(queue.tls, "-groups", "X25519MLKEM768"), "X25519MLKEM768")
    certificates.close()


@case
def versions_follow_the_settings():
    certificates = Certificates()
    with application() as app, Queue(app, certificates) as queue:
        contains(client(queue.tls, "-tls1_2", status=1), "protocol version")
        client(queue.tls, "-tls1_1", status=1)
    with application() as app, Queue(app, certificates, QUEUE_PROXY_TLS_MIN_VERSION="1.2") as queue:
        output = client(queue.tls, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256")
        contains(output, "TLSv1.2", "Cipher is ECDHE-ECDSA-AES128-GCM-SHA256")
        contains(output, "Secure Renegotiation IS supported")
        contains(client(queue.tls), "TLSv1.3")
        client(queue.tls, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA", status=1)
        client(queue.tls, "-tls1_1", status=1)
    certificates.close()


@case
def suites_of_tls_1_3():
    certificates = Certificates()
    with application() as app, Queue(app, certificates) as queue:
        for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]:
            contains(client(queue.tls, "-ciphersuites", suite), f"Cipher is {suite}")
    certificates.close()


@case
def alpn():
    certificates = Certificates()
    with application() as app, Queue(app, certificates) as queue:
        contains(client(queue.tls, "-alpn", "http/1.1,h2"), "ALPN protocol: h2")
        contains(client(queue.tls, "-alpn", "http/1.1"), "ALPN protocol: http/1.1")
        contains(client(queue.tls), "No ALPN negotiated")
        contains(client(queue.tls, "-alpn", "foo", status=1), "no application protocol")
    certificates.close()


@case
def every_kind_of_key():
    with application() as app:
        for kind in ["rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521", "ed25519"]:
            for traditional in [[], ["--traditional"]]:
                if traditional and kind == "ed25519":
                    continue
                certificates = Certificates("--key-type", kind, *traditional)
                with Queue(app, certificates) as queue:
                    output = client(queue.tls, "-CAfile", certificates.ca, "-verify_return_error", ask=GET)
                    contains(output, "hello from the application")
                certificates.close()


@case
def a_chain_with_an_intermediate():
    certificates = Certificates("--intermediate")
    with application() as app, Queue(app, certificates) as queue:
        output = client(queue.tls, "-CAfile", certificates.ca, "-verify_return_error", "-showcerts")
        contains(output, "Verify return code: 0 (ok)")
        assert output.count("BEGIN CERTIFICATE") == 2, output
    certificates.close()


@case
def sessions_are_resumed():
    certificates = Certificates()
    with application() as app, Queue(app, certificates) as queue, tempfile.TemporaryDirectory() as place:
        session = pathlib.Path(place) / "session"
        # Tickets of TLS 1.3 come after the handshake: an answer is read so that they have arrived.
        contains(client(queue.tls, "-sess_out", session, ask=GET), "New, TLSv1.3")
        contains(client(queue.tls, "-sess_in", session, ask=GET), "Reused, TLSv1.3", "hello from the application")
        # No early data: a replayed request would be a second request.
        contains(client(queue.tls, "-sess_in", session), "Early data was not sent")
    certificates.close()


def mutual(app, name, ca=None, **settings):
    """A queue that demands a certificate of one of the fixtures' authorities, with a name that all of them bear."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="lockkeeper-interop-"))
    for file in ["tls.crt", "tls.key"]:
        shutil.copy(FIXTURES / "good/p256" / file, place)
    shutil.copy(FIXTURES / (ca or name) / "ca.crt", place)
    settings = {"LOCKKEEPER_CLIENT_AUTH": "require", "LOCKKEEPER_CLIENT_AUTH_SANS": "kn-user-demo", **settings}
    return Queue(app, place, **settings)


@case
def client_certificates_that_must_be_served():
    with application() as app:
        for name in ["good/p256", "good/rsa2048", "good/ed25519", "good/p521", "good/intermediate", "broken/client-only"]:
            with mutual(app, name) as queue:
                shown = FIXTURES / name
                # s_client shows the leaf alone unless it is given the chain.
                chain = ["-cert_chain", shown / "tls.crt"] if "intermediate" in name else []
                output = client(queue.tls, "-cert", shown / "tls.crt", "-key", shown / "tls.key", *chain, ask=GET, status=None)
                contains(output, "hello from the application")


@case
def client_certificates_that_must_be_refused():
    requests = []

    class Counting(Echo):
        def do_GET(self):
            requests.append(self.path)
            super().do_GET()

    reasons = {
        "broken/expired": "tls_expired",
        "broken/not-yet-valid": "tls_not_yet_valid",
        "broken/wrong-san": "tls_san_mismatch",
        "broken/no-san": "tls_san_mismatch",
        "broken/other-ca": "tls_unknown_ca",
        "broken/missing-intermediate": "tls_unknown_ca",
        "broken/rsa1024": "tls_bad_certificate",
        "broken/sha1": "tls_weak_algorithm",
    }
    with application(Counting) as app:
        for name in reasons:
            with mutual(app, name) as queue:
                shown = FIXTURES / name
                # OpenSSL itself refuses to show weak ones at its usual level.
                weak = ["-cipher", "DEFAULT@SECLEVEL=0"]
                output = client(queue.tls, *weak, "-cert", shown / "tls.crt", "-key", shown / "tls.key", ask=GET, status=None)
                assert "hello from the application" not in output, f"{name} was served:\n{output}"
                assert re.search("alert|certificate|reset|closed|read:errno", output), f"{name}:\n{output}"
                reason = f'"cause":"{reasons[name]}"'
                eventually(
                    f"the log says {reason} of {name}", lambda: "TLS handshake error from" in queue.log() and reason in queue.log()
                )
        with mutual(app, "good/p256") as queue:
            assert "hello from the application" not in client(queue.tls, ask=GET, status=None), "served without a certificate"
    assert not requests, f"the application saw {requests}"


if __name__ == "__main__":
    run()
