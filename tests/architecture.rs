//! The order of modules in `src/lib.rs` is the order of their dependencies: a module uses those above it only.
use std::fs;
use std::path::Path;

/// Module names in the order of `src/lib.rs`.
fn order() -> Vec<String> {
    let text = fs::read_to_string("src/lib.rs").unwrap();
    text.lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned))
        .collect()
}

/// The first names after `crate::` in a file, groups included, with their line numbers. Test modules count too.
fn uses(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (at, _) in code.match_indices("crate::") {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &code[at + "crate::".len()..];
            let names = rest.strip_prefix('{').map_or(vec![rest], |group| group.split(',').collect());
            for name in names {
                let name = name.trim();
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
                found.push((number + 1, name[..end].to_owned()));
            }
        }
    }
    found
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path);
        }
    }
}

#[test]
fn when_the_sources_are_read_then_no_module_uses_one_below_it() {
    let order = order();
    assert!(order.len() > 10, "{order:?}");
    let mut wrong = Vec::new();
    let mut seen = 0;
    walk(Path::new("src"), &mut |path| {
        let module = path.strip_prefix("src").unwrap().iter().next().unwrap().to_string_lossy();
        let module = module.trim_end_matches(".rs");
        let Some(level) = order.iter().position(|name| name == module) else { return };
        for (line, used) in uses(&fs::read_to_string(path).unwrap()) {
            if let Some(other) = order.iter().position(|name| *name == used) {
                seen += 1;
                if other > level {
                    wrong.push(format!("{}:{line}: {module} uses {used}, which stands below it", path.display()));
                }
            }
        }
    });
    assert!(seen > 0, "no use was found: the reader is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn given_lines_with_paths_when_read_then_the_first_names_are_found() {
    let text = "use crate::tls::{A, B};\nuse crate::{net, worker::X};\n// crate::cli\nlet x = crate::http::f(); // crate::cli\n";
    let names: Vec<String> = uses(text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["tls", "net", "worker", "http"]);
}
