"""What the Dockerfile promises, without Docker: the binary alone in an otherwise empty, read-only root directory, with the
libraries that its base image has, as a user who is not root and has no capability. Without arguments it is the queue.
"""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import urllib.request

from harness import BINARY, Certificates, Queue, Skip, application, case, contains, run, sh

REPOSITORY = pathlib.Path(__file__).parents[2]
# nonroot in distroless images.
USER = 65532
# What gcr.io/distroless/cc-debian12 has.
LIBRARIES = {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1"}


def libraries():
    """The files that the loader needs, by their paths here."""
    found = {}
    for line in sh("ldd", BINARY).splitlines():
        path = re.search(r"(/\S+) \(0x", line)
        if path:
            found[pathlib.Path(path.group(1)).name] = path.group(1)
    return found


def empty_root():
    """A directory with the binary and its libraries; what starts the binary in it."""
    if os.geteuid() != 0:
        raise Skip("only root may change the root directory", impossible=True)
    if subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        raise Skip("no mount namespaces here", impossible=True)
    root = pathlib.Path(tempfile.mkdtemp(prefix="lockkeeper-root-"))
    root.chmod(0o755)
    shutil.copy(BINARY, root / "lockkeeper")
    for path in libraries().values():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root


def inside(root, *arguments):
    """Read-only, as a plain user, without a way to gain privileges."""
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec setpriv --no-new-privs unshare --root="$0" --wd=/ ' \
        f'--setgid={USER} --setuid={USER} "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(root), "/lockkeeper", *arguments]


@case
def the_binary_needs_nothing_that_its_image_lacks():
    missing = set(libraries()) - LIBRARIES
    assert not missing, f"not in the base image: {missing}"


@case
def the_build_context_has_all_that_the_manifest_names():
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    with tempfile.TemporaryDirectory() as context:
        for name in allowed:
            source, target = REPOSITORY / name, pathlib.Path(context) / name
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        # Reads the manifest and looks for the files of every target.
        sh("cargo", "metadata", "--no-deps", "--format-version=1", "--manifest-path", f"{context}/Cargo.toml")


@case
def kubelet_can_see_that_the_user_is_not_root():
    users = re.findall(r"^USER (\S+)", (REPOSITORY / "Dockerfile").read_text(), re.M)
    assert users == [f"{USER}:{USER}"], f"a user by name fails `runAsNonRoot`: {users}"


@case
def without_arguments_it_is_the_queue_and_serves_as_nobody_from_a_read_only_root():
    root = empty_root()
    try:
        certificates = Certificates()
        # A mounted Secret: readable by the pod's group.
        shutil.copytree(certificates.dir, root / "certs")
        for path in [root / "certs", *(root / "certs").iterdir()]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        certificates.close()
        with application() as app, Queue(app, "/certs", command=inside(root)) as queue:
            with urllib.request.urlopen(f"http://127.0.0.1:{queue.http}/") as answer:
                assert answer.read() == b"hello from the application\n"
            status = pathlib.Path(f"/proc/{queue.process.pid}/status").read_text()
            assert re.search(rf"^Uid:\t{USER}\t{USER}", status, re.M), status
            assert re.search(r"^CapEff:\t0+$", status, re.M), status
            contains(sh("openssl", "s_client", "-connect", f"127.0.0.1:{queue.tls}", stdin=""), "TLSv1.3")
            queue.signal()
            assert queue.exit() == 0
            contains(queue.log(), "Starting queue-proxy", "Shutdown complete, exiting...")
    finally:
        shutil.rmtree(root, ignore_errors=True)


@case
def other_roles_are_named_by_an_argument():
    root = empty_root()
    try:
        contains(sh(*inside(root, "--version")), "lockkeeper ")
        help_text = sh(*inside(root, "--help"))
        contains(help_text, "queue")
        # Every stage of the Dockerfile names a role that the binary has.
        dockerfile = (REPOSITORY / "Dockerfile").read_text()
        for role in re.findall(r'^ENTRYPOINT \["/lockkeeper", "(\w+)"', dockerfile, re.M):
            contains(help_text, f"  {role} ")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    run()
