//! Objects from a directory of manifests.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use lockkeeper::knative::config_map::ConfigMap;
use lockkeeper::knative::endpoints::{Endpoints, Role};
use lockkeeper::knative::revision::Revision;
use lockkeeper::knative::secret::Secret;
use lockkeeper::kube::{Objects, Selection, Source};

use super::{next, on_the_control_side, until, within};
use crate::support::objects::{config_map, private_endpoints, revision, secret};

fn names<T>(objects: &Objects<T>) -> Vec<String> {
    let mut names: Vec<String> = objects.all().into_iter().map(|(key, _)| key.to_string()).collect();
    names.sort();
    names
}

/// A generation of a mounted ConfigMap, swapped in as the kubelet does it.
fn swap(dir: &Path, generation: &str, files: &[(&str, &str)]) {
    let data = dir.join(generation);
    fs::create_dir(&data).unwrap();
    for (name, text) in files {
        fs::write(data.join(name), text).unwrap();
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    symlink(generation, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[test]
fn given_files_of_several_kinds_when_they_change_then_each_kind_follows() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let endpoints = private_endpoints("demo", "a-00001").subset(&["10.0.0.1"], &["10.0.0.2"], "http", 8012);
    write("all.yaml", &format!("{}{}", revision("demo", "a-00001").manifest(), endpoints.manifest()));
    write("plain.yml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  key: value\n");
    write("secret.json", &serde_json::Value::from(secret("demo", "s").entry("k", "v")).to_string());
    write("notes.txt", "kind: Revision");
    write(".hidden.yaml", &revision("demo", "hidden").manifest());
    on_the_control_side(async {
        let source = Source::directory(dir.path());
        let revisions = source.objects::<Revision>(Selection::everywhere());
        let endpoints = source.objects::<Endpoints>(Selection::everywhere());
        let maps = source.objects::<ConfigMap>(Selection::within("default").named("settings"));
        let secrets = source.objects::<Secret>(Selection::within("demo"));
        within("all are read", async {
            tokio::join!(revisions.synced(), endpoints.synced(), maps.synced(), secrets.synced())
        })
        .await;
        assert_eq!(names(&revisions), ["demo/a-00001"]);
        assert_eq!(endpoints.find("demo/a-00001-private").unwrap().role, Role::Private);
        assert_eq!(maps.find("default/settings").unwrap().data["key"], "value");
        assert_eq!(secrets.find("demo/s").unwrap().value("k"), b"v");

        let mut changes = revisions.changes();
        assert_eq!(next(&mut changes).await, "+a-00001");
        write("more.yaml", &revision("demo", "b-00001").manifest());
        assert_eq!(next(&mut changes).await, "+b-00001");
        fs::remove_file(dir.path().join("all.yaml")).unwrap();
        assert_eq!(next(&mut changes).await, "-a-00001");
        until("the endpoints are gone", || endpoints.is_empty()).await;

        // A kind that is asked for later gets all of it, too.
        let later = source.objects::<Revision>(Selection::within("demo").named("b-00001"));
        within("it is read", later.synced()).await;
        assert_eq!(names(&later), ["demo/b-00001"]);
    });
}

/// The swap of `..data` is one change: no object vanishes in between.
#[test]
fn given_a_mounted_directory_when_its_generation_is_swapped_then_all_of_it_changes_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let two = |limit: u32| {
        let revision = |name| revision("demo", name).concurrency(limit).manifest();
        format!("{}{}", revision("a-00001"), revision("b-00001"))
    };
    swap(dir.path(), "..1", &[("r.yaml", &two(1))]);
    on_the_control_side(async {
        let revisions = Source::directory(dir.path()).objects::<Revision>(Selection::everywhere());
        within("it is read", revisions.synced()).await;
        let limit = |name: &str| revisions.find(name).map(|revision| revision.container_concurrency);
        for generation in 2..6 {
            swap(dir.path(), &format!("..{generation}"), &[("r.yaml", &two(generation))]);
            fs::remove_dir_all(dir.path().join(format!("..{}", generation - 1))).unwrap();
            until("the swap is seen", || {
                let limits = (limit("demo/a-00001"), limit("demo/b-00001"));
                assert_eq!(limits.0, limits.1);
                limits.0 == Some(generation)
            })
            .await;
        }
        assert_eq!(revisions.counters().unreadable(), 0);
    });
}

/// A bad object or document costs itself, and keeps what was known.
#[test]
fn given_bad_objects_and_documents_when_read_then_the_others_change_and_they_stay() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.yaml");
    let write = |texts: &[&str]| fs::write(&file, texts.concat()).unwrap();
    let good = |name: &str, limit: u32| revision("demo", name).concurrency(limit).manifest();
    write(&[&good("a-00001", 1), &good("b-00001", 1), &good("c-00001", 1)]);
    on_the_control_side(async {
        let revisions = Source::directory(dir.path()).objects::<Revision>(Selection::everywhere());
        within("it is read", revisions.synced()).await;
        let limit = |name: &str| revisions.find(name).map(|revision| revision.container_concurrency);

        let bad = revision("demo", "b-00001").set("/spec/timeoutSeconds", "soon").manifest();
        write(&[&good("a-00001", 2), &bad, "---\nmetadata: [\n"]);
        until("the good one changed", || limit("demo/a-00001") == Some(2)).await;
        // The document that can't be read may have been c.
        assert_eq!((limit("demo/b-00001"), limit("demo/c-00001")), (Some(1), Some(1)));
        assert_eq!(revisions.counters().unreadable(), 1);

        write(&[&good("a-00001", 3), &good("b-00001", 3)]);
        until("the file is sound again", || limit("demo/b-00001") == Some(3)).await;
        assert_eq!(limit("demo/c-00001"), None);
    });
}

/// A directory that does not exist yet gives no set; one that vanishes takes nothing away.
#[test]
fn given_a_directory_that_comes_and_goes_then_the_last_state_stays() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("manifests");
    on_the_control_side(async {
        let maps = Source::directory(&dir).objects::<ConfigMap>(Selection::everywhere());
        until("it was looked for", || !maps.counters().connected()).await;
        assert!(!maps.is_synced());

        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("m.yaml"), config_map("demo", "m").manifest()).unwrap();
        until("it is read", || names(&maps) == ["demo/m"]).await;

        fs::remove_dir_all(&dir).unwrap();
        until("the loss is noticed", || !maps.counters().connected()).await;
        assert_eq!(names(&maps), ["demo/m"]);

        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("n.yaml"), config_map("demo", "n").manifest()).unwrap();
        until("the new one is read", || names(&maps) == ["demo/n"]).await;
    });
}

/// Two files with the same object: the first counts, and when it goes, the second does.
#[test]
fn given_an_object_in_two_files_when_the_first_goes_then_the_second_counts() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &str| {
        fs::write(dir.path().join(name), config_map("demo", "m").entry("k", value).manifest()).unwrap();
    };
    write("a.yaml", "first");
    write("b.yaml", "second");
    on_the_control_side(async {
        let maps = Source::directory(dir.path()).objects::<ConfigMap>(Selection::everywhere());
        within("it is read", maps.synced()).await;
        assert_eq!(maps.find("demo/m").unwrap().data["k"], "first");
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        until("the second counts", || maps.find("demo/m").is_some_and(|map| map.data["k"] == "second")).await;
    });
}
