"""The manifests in deploy/: kustomize builds every overlay, and the objects keep to the schemas of Kubernetes.

Needs kubectl or kustomize, and the package kubernetes-validate, which brings the schemas along.
"""
import pathlib
import shutil
import tempfile

import yaml

from harness import Skip, case, run, sh

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
KUBERNETES = "1.33"
# The parts of Knative's Deployment that ours leaves to it.
ACTIVATOR = {"selector": {"matchLabels": {"app": "activator"}}, "labels": {"app": "activator"}}


def build(directory):
    if shutil.which("kubectl"):
        built = sh("kubectl", "kustomize", str(directory))
    elif shutil.which("kustomize"):
        built = sh("kustomize", "build", str(directory))
    else:
        raise Skip("neither kubectl nor kustomize is installed", impossible=True)
    return list(yaml.safe_load_all(built))


def kustomizations():
    return sorted(path.parent for path in DEPLOY.rglob("kustomization.yaml"))


@case
def kustomize_builds_every_overlay():
    assert len(kustomizations()) >= 9, kustomizations()
    for directory in kustomizations():
        assert build(directory), directory


@case
def images_of_an_overlay_reach_every_place():
    # Beside the others, as an overlay leads to its bases by relative paths.
    with tempfile.TemporaryDirectory(dir=DEPLOY / "overlays") as copy:
        for file in (DEPLOY / "overlays/all").iterdir():
            text = file.read_text().replace("newName: REGISTRY", "newName: registry.example").replace("newTag: TAG", "newTag: v1")
            (pathlib.Path(copy) / file.name).write_text(text)
        built = str(build(copy))
    assert "REGISTRY" not in built and built.count("registry.example/lockkeeper") == 3, built


@case
def the_objects_keep_to_the_schemas_of_kubernetes():
    try:
        import kubernetes_validate
    except ImportError:
        raise Skip("the package kubernetes-validate is missing") from None
    checked = 0
    for directory in kustomizations():
        for item in build(directory):
            if item["apiVersion"].startswith("cert-manager.io/"):
                continue  # of a CustomResourceDefinition: tests/deploy.rs looks at these
            if item["kind"] == "Deployment" and "selector" not in item["spec"]:
                item["spec"]["selector"] = ACTIVATOR["selector"]
                item["spec"]["template"]["metadata"] = {"labels": ACTIVATOR["labels"]}
            try:
                kubernetes_validate.validate(item, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise AssertionError(f"{directory}: {item['kind']} {item['metadata']['name']}: {error.message}") from None
            checked += 1
    assert checked > 50, checked


@case
def a_mistake_is_found():
    try:
        import kubernetes_validate
    except ImportError:
        raise Skip("the package kubernetes-validate is missing") from None
    item = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}, "secret": []}
    try:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError:
        return
    raise AssertionError("an unknown field passed")


run()
