//! Finds the address spaces of this host in which a vkernel runs, and the containers in each.

use crate::container::facts::{Facts, FactsError};
use crate::container::find::{FindError, RootNamed, find, roots};
use crate::container::main_process::MainProcess;
use crate::container::root::{Root, RootError};
use crate::instance::heap_view::{Access, HeapView, HeapViewError};
use libcontainer::container::Container;
use pegasus_contract::boot::InstanceKind;
use std::collections::BTreeSet;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Heap(#[from] HeapViewError),
    #[error("container {0:?} is not running: there is nothing to see of it")]
    NotRunning(String),
    #[error(
        "no running container belongs to group {0:?}; `pegasus inspect` names a container's group"
    )]
    NoGroup(String),
}

/// Which containers are asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    All,
    Group(String),
    /// Whole ids, or the beginnings of them.
    Containers(Vec<String>),
}

impl Selection {
    /// From what a command line names; no containers and no group are all containers.
    pub fn new(group: Option<&str>, containers: &[String]) -> Self {
        match group {
            Some(group) => Selection::Group(group.to_owned()),
            None if containers.is_empty() => Selection::All,
            None => Selection::Containers(containers.to_vec()),
        }
    }
}

/// A running container.
#[derive(Debug)]
pub struct Member {
    pub container: Container,
    pub facts: Facts,
    pub main: MainProcess,
    /// Of its record in the heap, if it has one.
    pub index: Option<u32>,
    /// It was asked about; the others of its instance are there to be named.
    pub selected: bool,
}

impl Member {
    pub fn id(&self) -> &str {
        self.container.id()
    }
}

/// An address space, or a native container.
#[derive(Debug)]
pub struct Instance {
    /// The process that holds it, on the host.
    pub pid: i32,
    pub group: Option<String>,
    /// `None` for a native container.
    pub heap: Option<HeapView>,
    pub kind: Option<InstanceKind>,
    pub members: Vec<Member>,
}

impl Instance {
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Some(InstanceKind::Own) => "own",
            Some(InstanceKind::Shared) => "shared",
            None => "none",
        }
    }

    /// Whether the container with this record was asked about; one that is not known, if all of the instance were.
    pub fn is_selected(&self, index: u32) -> bool {
        match self.member(index) {
            Some(member) => member.selected,
            None => self.members.iter().all(|member| member.selected),
        }
    }

    /// The container with this record.
    pub fn member(&self, index: u32) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.index == Some(index))
    }
}

/// What was found, and how much could not be looked at.
#[derive(Debug, Default)]
pub struct Found {
    pub instances: Vec<Instance>,
    /// Containers of this runtime whose state or heap could not be read.
    pub unreadable: u64,
}

/// The instances that have a selected container in them.
pub fn look(root: &Root, named: RootNamed, selection: &Selection) -> Result<Found, ObserveError> {
    let wish = Wish::of(root, named, selection)?;
    let mut found = Found::default();
    for root in roots(root, named) {
        for id in root.ids()? {
            let is_named = wish.names(&root, &id);
            let added = member(&root, &id, &wish).and_then(|member| match member {
                None if is_named => Err(ObserveError::NotRunning(id.clone())),
                None => Ok(()),
                Some(member) => Ok(found.add(member)?),
            });
            match added {
                Ok(()) => {}
                Err(error) if is_named => return Err(error),
                // It may just be going away.
                Err(error) => {
                    tracing::debug!(id, "not looked at: {}", crate::error::chain(&error));
                    found.unreadable += 1;
                }
            }
        }
    }
    found
        .instances
        .retain(|instance| instance.members.iter().any(|member| member.selected));
    match selection {
        Selection::Group(group) if found.instances.is_empty() => {
            Err(ObserveError::NoGroup(group.clone()))
        }
        _ => Ok(found),
    }
}

/// What a [`Selection`] means on this host.
struct Wish<'a> {
    selection: &'a Selection,
    /// State directory and whole id.
    named: Vec<(PathBuf, String)>,
    /// Shared instances that named containers are in.
    instances: BTreeSet<i32>,
}

impl<'a> Wish<'a> {
    fn of(
        root: &Root,
        root_named: RootNamed,
        selection: &'a Selection,
    ) -> Result<Self, ObserveError> {
        let mut wish = Wish {
            selection,
            named: Vec::new(),
            instances: BTreeSet::new(),
        };
        if let Selection::Containers(prefixes) = selection {
            for prefix in prefixes {
                let (root, id) = find(root, root_named, prefix)?;
                let facts = Facts::load(&root.directory(&id)?)?;
                let shared = facts.and_then(|facts| facts.shared);
                wish.instances
                    .extend(shared.map(|shared| shared.instance_pid));
                wish.named.push((root.path().to_owned(), id));
            }
        }
        Ok(wish)
    }

    fn names(&self, root: &Root, id: &str) -> bool {
        let mut named = self.named.iter();
        named.any(|(path, named)| path == root.path() && named == id)
    }

    fn selects(&self, root: &Root, id: &str, facts: &Facts) -> bool {
        match self.selection {
            Selection::All => true,
            Selection::Group(group) => facts.group.as_ref() == Some(group),
            Selection::Containers(_) => self.names(root, id),
        }
    }

    fn has_neighbour(&self, facts: &Facts) -> bool {
        let shared = facts.shared.as_ref();
        shared.is_some_and(|shared| self.instances.contains(&shared.instance_pid))
    }
}

/// `None` for a container that has stopped, that is not this runtime's, or that is of no interest.
fn member(root: &Root, id: &str, wish: &Wish) -> Result<Option<Member>, ObserveError> {
    let Some(facts) = Facts::load(&root.directory(id)?)? else {
        return Ok(None);
    };
    let selected = wish.selects(root, id, &facts);
    if !selected && !wish.has_neighbour(&facts) {
        return Ok(None);
    }
    let container = root.load(id)?;
    Ok(MainProcess::of(&container).map(|main| Member {
        container,
        facts,
        main,
        index: None,
        selected,
    }))
}

impl Found {
    /// Puts a container into its instance, which the first one of it opens.
    fn add(&mut self, member: Member) -> Result<(), HeapViewError> {
        let pid = member
            .facts
            .shared
            .map_or(member.main.pid.as_raw(), |shared| shared.instance_pid);
        if self.has(&member) {
            return Ok(());
        }
        let place = self
            .instances
            .iter()
            .position(|instance| instance.pid == pid);
        let place = place.unwrap_or_else(|| {
            self.instances.push(Instance {
                pid,
                group: member.facts.group.clone(),
                heap: None,
                kind: None,
                members: Vec::new(),
            });
            self.instances.len() - 1
        });
        self.instances[place].add(member)
    }

    /// Whether another state directory has shown this container already.
    fn has(&self, member: &Member) -> bool {
        self.instances
            .iter()
            .flat_map(|instance| &instance.members)
            .any(|known| known.main == member.main)
    }
}

impl Instance {
    fn add(&mut self, member: Member) -> Result<(), HeapViewError> {
        let pid = member.main.pid;
        self.members.push(member);
        if self.heap.is_none() {
            self.heap = HeapView::of(pid, Access::Read)?;
        }
        // A program that left the vkernel does not have the heap, but its neighbours do.
        let Some(heap) = &self.heap else {
            return Ok(());
        };
        self.kind = heap.kind()?;
        for member in self
            .members
            .iter_mut()
            .filter(|member| member.index.is_none())
        {
            let index = heap.container(member.container.id())?;
            member.index = index.and_then(|index| index.try_into().ok());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn strangers_and_damage_hide_nobody_else() {
        let path = std::env::temp_dir().join(format!("pegasus-look-{}", std::process::id()));
        for id in ["runcs", "damaged"] {
            fs::create_dir_all(path.join(id)).unwrap();
            fs::write(path.join(id).join("state.json"), "{}").unwrap();
        }
        fs::write(path.join("damaged/pegasus.json"), "{").unwrap();
        let root = Root::new(path.clone());
        let look = |selection: Selection| look(&root, RootNamed::Yes, &selection);
        let only = |id: &str| Selection::new(None, &[id.to_owned()]);
        let all = look(Selection::All).unwrap();
        assert_eq!((all.instances.len(), all.unreadable), (0, 1));
        let refused = |id| look(only(id)).unwrap_err();
        assert!(matches!(refused("run"), ObserveError::NotRunning(_)));
        assert!(matches!(refused("dam"), ObserveError::Facts(_)));
        assert!(matches!(refused("x"), ObserveError::Find(_)));
        assert!(matches!(
            look(Selection::new(Some("g"), &[])),
            Err(ObserveError::NoGroup(_))
        ));
        fs::remove_dir_all(path).unwrap();
    }
}
