//! The environment of a container's program, in the order in which the bundle lists it.

use std::collections::HashMap;
use std::ffi::CString;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvironmentError {
    #[error("invalid environment variable {0:?} in process.env: it has no '='")]
    NoEquals(String),
    #[error("invalid environment variable {0:?} in process.env: the name is empty")]
    NoName(String),
    #[error("invalid environment variable {0:?} in process.env: it contains a NUL character")]
    Nul(String),
}

/// Variables that the container library adds to those of the bundle.
const ADDED: [&str; 2] = ["LISTEN_FDS", "LISTEN_PID"];

/// Builds the `envp` for the program. A later value of a name replaces an earlier one in its place,
/// and a program always gets a `HOME`, as under runc.
pub fn compose(
    listed: &[String],
    library: &HashMap<String, String>,
) -> Result<Vec<CString>, EnvironmentError> {
    let mut variables: Vec<(&str, &str)> = Vec::with_capacity(listed.len() + 3);
    for entry in listed {
        let (name, value) = entry
            .split_once('=')
            .ok_or_else(|| EnvironmentError::NoEquals(entry.clone()))?;
        if name.is_empty() {
            return Err(EnvironmentError::NoName(entry.clone()));
        }
        set(&mut variables, name, value);
    }
    for name in ADDED {
        if let Some(value) = library.get(name) {
            set(&mut variables, name, value);
        }
    }
    if value_of(&variables, "HOME").is_none_or(str::is_empty) {
        let home = library.get("HOME").map_or("/", String::as_str);
        set(
            &mut variables,
            "HOME",
            if home.is_empty() { "/" } else { home },
        );
    }
    variables
        .into_iter()
        .map(|(name, value)| {
            let entry = format!("{name}={value}");
            CString::new(entry).map_err(|_| EnvironmentError::Nul(name.to_owned()))
        })
        .collect()
}

/// The value of `PATH` among the listed variables; empty if there is none.
pub fn search_path(listed: &[String]) -> &str {
    listed
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or("")
}

fn value_of<'a>(variables: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    variables
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| *value)
}

fn set<'a>(variables: &mut Vec<(&'a str, &'a str)>, name: &'a str, value: &'a str) {
    match variables.iter_mut().find(|(known, _)| *known == name) {
        Some(variable) => variable.1 = value,
        None => variables.push((name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(listed: &[&str], library: &[(&str, &str)]) -> Vec<String> {
        let listed: Vec<String> = listed.iter().map(|entry| (*entry).to_owned()).collect();
        let library = library
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let environment = compose(&listed, &library).unwrap();
        environment
            .into_iter()
            .map(|entry| entry.into_string().unwrap())
            .collect()
    }

    #[test]
    fn order_is_kept_and_the_last_value_wins() {
        assert_eq!(
            composed(&["B=1", "A=2", "B=3", "HOME=/h"], &[]),
            ["B=3", "A=2", "HOME=/h"]
        );
    }

    #[test]
    fn home_comes_from_the_user_or_is_the_root() {
        assert_eq!(
            composed(&["A=="], &[("HOME", "/root")]),
            ["A==", "HOME=/root"]
        );
        assert_eq!(composed(&["HOME="], &[]), ["HOME=/"]);
    }

    #[test]
    fn entries_that_are_no_variables_are_refused() {
        let refused = |entry: &str| compose(&[entry.to_owned()], &HashMap::new()).unwrap_err();
        assert_eq!(refused("A"), EnvironmentError::NoEquals("A".to_owned()));
        assert_eq!(refused("=1"), EnvironmentError::NoName("=1".to_owned()));
        assert_eq!(refused("A=\0"), EnvironmentError::Nul("A".to_owned()));
    }

    #[test]
    fn a_missing_path_is_empty() {
        assert_eq!(search_path(&[]), "");
        assert_eq!(
            search_path(&["PATH=/a".to_owned(), "PATH=/b".to_owned()]),
            "/b"
        );
    }
}
