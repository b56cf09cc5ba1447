//! Does the suite find what it is there to find? Plants one defect after the other in a copy of the workspace and
//! demands that a test fails.
//!
//! A defect is a file in `xtask/mutants`: a text that stands exactly once in a source file, and what replaces it.
//! One that no longer applies, or does not compile, is an error: it would prove nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::paths::target_dir;
use crate::run::{note, output};

/// Compiling the engine, the server and their tests anew takes a minute or two.
const STEP_LIMIT: Duration = Duration::from_mins(15);
/// Seeds against each defect: the rarest needs about a hundred.
const SEEDS: &str = "300";
/// The tests that are quick and see the core, the quickest first.
const TESTS: [&str; 2] = ["tables", "sim"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    what: String,
    file: PathBuf,
    before: String,
    after: String,
}

struct Verdict {
    name: String,
    what: String,
    killer: Option<String>,
    took: Duration,
}

/// Plants all defects, or the one of this name; true when all were found.
pub fn run(root: &Path, only: Option<&str>) -> Result<bool> {
    let mutants = read(&root.join("xtask/mutants"), only)?;
    let copy = target_dir().join("mutants/workspace");
    copy_workspace(root, &copy)?;
    note("the tests pass without a defect?");
    if let Some(killer) = killed_by(&copy)? {
        bail!("{killer} fails without a defect: mend that first");
    }
    let mut verdicts = Vec::new();
    for (name, mutant) in mutants {
        note(&format!("{name}: {}", mutant.what));
        let path = copy.join(&mutant.file);
        let whole =
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let planted = plant(&mutant, &whole).with_context(|| format!("defect {name}"))?;
        fs::write(&path, planted).with_context(|| format!("write {}", path.display()))?;
        let began = Instant::now();
        let killer = killed_by(&copy);
        fs::write(&path, whole).with_context(|| format!("restore {}", path.display()))?;
        let killer = killer.with_context(|| format!("defect {name}"))?;
        note(&format!("  {}", killer.as_deref().unwrap_or("SURVIVED")));
        verdicts.push(Verdict { name, what: mutant.what, killer, took: began.elapsed() });
    }
    note("");
    for verdict in &verdicts {
        let killer = verdict.killer.as_deref().unwrap_or("SURVIVED");
        let took = verdict.took.as_secs();
        note(&format!("{:<26} {took:>4} s  {killer}\n{:>34}{}", verdict.name, "", verdict.what));
    }
    let survived = verdicts.iter().filter(|verdict| verdict.killer.is_none()).count();
    note(&format!("{} found, {survived} survived", verdicts.len() - survived));
    Ok(survived == 0)
}

fn read(dir: &Path, only: Option<&str>) -> Result<Vec<(String, Mutant)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.context("read an entry of the defects")?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mutant = toml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        found.push((name, mutant));
    }
    if found.is_empty() {
        bail!("no defect of this name in {}", dir.display());
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn plant(mutant: &Mutant, whole: &str) -> Result<String> {
    match whole.matches(&mutant.before).count() {
        1 => Ok(whole.replacen(&mutant.before, &mutant.after, 1)),
        count => bail!(
            "`{}` stands {count} times in {}, not once: write the defect anew",
            mutant.before,
            mutant.file.display()
        ),
    }
}

/// Copies what git knows or would take. Files that are equal stay untouched, so that cargo does not build them anew.
fn copy_workspace(root: &Path, copy: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root);
    let listed = output(&mut git, Duration::from_secs(30))?;
    let wanted: BTreeSet<&str> =
        listed.split('\0').filter(|name| !name.is_empty() && root.join(name).is_file()).collect();
    for name in &wanted {
        let (from, to) = (root.join(name), copy.join(name));
        let content = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
        if fs::read(&to).is_ok_and(|there| there == content) {
            continue;
        }
        let dir = to.parent().context("a file has a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        fs::write(&to, content).with_context(|| format!("write {}", to.display()))?;
    }
    remove_others(copy, copy, &wanted)
}

/// What an earlier copy holds and the workspace no longer does would still be compiled.
fn remove_others(base: &Path, dir: &Path, wanted: &BTreeSet<&str>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.context("read an entry of the copy")?.path();
        if path.is_dir() {
            remove_others(base, &path, wanted)?;
        } else if !wanted.contains(&*path.strip_prefix(base)?.to_string_lossy()) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn cargo(copy: &Path) -> Command {
    // A failed test tells on stdout why, a failed command here on stderr.
    let mut cargo = Command::new("sh");
    cargo.args(["-c", "exec cargo \"$@\" 1>&2", "sh", "test", "--workspace"]);
    // A target directory of its own: cargo names what it builds by its place in the workspace, and would take a
    // crate with a defect for the real one.
    cargo.current_dir(copy).env("CARGO_TARGET_DIR", target_dir().join("mutants/build"));
    cargo
}

/// The first test that fails, if one does.
fn killed_by(copy: &Path) -> Result<Option<String>> {
    let mut build = cargo(copy);
    for test in TESTS {
        build.args(["--test", test]);
    }
    output(build.arg("--no-run"), STEP_LIMIT).context("it does not compile")?;
    for test in TESTS {
        let mut tests = cargo(copy);
        tests.args(["--test", test]).env("SIM_SEEDS", SEEDS);
        if let Err(failure) = output(tests.arg("--no-fail-fast"), STEP_LIMIT) {
            return Ok(Some(killer(test, &format!("{failure:#}"))));
        }
    }
    Ok(None)
}

/// The failed tests' names, and the first seed that failed with what it broke.
fn killer(test: &str, said: &str) -> String {
    let failed: Vec<&str> = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("test ")?.strip_suffix(" ... FAILED"))
        .collect();
    let seed = said.lines().map(str::trim).find(|line| line.starts_with("seed "));
    match seed {
        Some(seed) => format!("{test} {}: {seed}", failed.join(", ")),
        None => format!("{test} {}", failed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::paths::workspace_root;

    #[test]
    fn every_defect_applies() {
        let root = workspace_root();
        for (name, mutant) in read(&root.join("xtask/mutants"), None).unwrap() {
            let whole = fs::read_to_string(root.join(&mutant.file)).unwrap();
            let planted = plant(&mutant, &whole);
            assert!(planted.is_ok_and(|planted| planted != whole), "{name} does not apply");
        }
    }

    #[test]
    fn a_defect_that_no_longer_applies_is_an_error() {
        let mutant = Mutant {
            what: String::new(),
            file: PathBuf::from("a.rs"),
            before: "x".to_owned(),
            after: "y".to_owned(),
        };
        assert_eq!(plant(&mutant, "a x b").unwrap(), "a y b");
        assert!(plant(&mutant, "a b").is_err());
        assert!(plant(&mutant, "x x").is_err());
    }
}
