//! What a person does to the tree: folders, moves, deletions, bringing back. Each is one commit.
//!
//! Invariant: what a person deletes goes to trash, is audited and is never held. Left out: contents (`uploads`).

use driftless_sync::path::TreePath;

use crate::{
    Actor, Domain,
    commit::{self, Base, Batch, Change, OnConflict, Origin, Refusal},
    db,
    error::{Fault, Kind},
    tree::{self, Node},
};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading the tree failed.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The commit failed.
    #[error(transparent)]
    Commit(#[from] commit::Error),
    /// The commit refused the change.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<db::Error> for Error {
    fn from(e: db::Error) -> Self {
        Error::Tree(e.into())
    }
}

impl Error {
    fn cause(&self) -> &dyn Fault {
        match self {
            Error::Tree(e) => e,
            Error::Commit(e) => e,
            Error::Refused(e) => e,
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        self.cause().kind()
    }

    fn code(&self) -> &'static str {
        self.cause().code()
    }

    fn field(&self) -> Option<&str> {
        self.cause().field()
    }

    fn retry_after(&self) -> Option<u64> {
        self.cause().retry_after()
    }
}

async fn changed(domain: &Domain, actor: &Actor, change: Change) -> Result<Node, Error> {
    let outcome = commit::apply_one(domain, actor, Origin::Person, change).await?;
    let applied = outcome.applied()?;
    let mut tx = domain.begin(actor).await?;
    Ok(tree::node(&mut tx, actor, &applied.path).await?)
}

/// Makes a folder; one that is there is fine.
pub async fn create_folder(domain: &Domain, actor: &Actor, path: TreePath) -> Result<Node, Error> {
    if path.is_root() {
        return Ok(Node::root());
    }
    changed(domain, actor, Change::Folder { path, held: None }).await
}

/// Moves or renames a file or folder. With `version`, only when the file is in it.
pub async fn rename(
    domain: &Domain,
    actor: &Actor,
    from: TreePath,
    to: TreePath,
    version: Option<i64>,
) -> Result<Node, Error> {
    let base = version.map_or(Base::Any, Base::Version);
    changed(domain, actor, Change::Move { from, to, base, held: None }).await
}

/// What came of one deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// What.
    pub path: TreePath,
    /// Code and text, when it was not done.
    pub refusal: Option<(&'static str, String)>,
}

/// Deletes files and folders, folders with all that is in them.
pub async fn delete(domain: &Domain, actor: &Actor, paths: Vec<TreePath>) -> Result<Vec<Removal>, Error> {
    let change =
        |path: &TreePath| Change::Delete { path: path.clone(), base: Base::Any, recursive: true, half_of_move: false };
    let batch = Batch::new(Origin::Person, paths.iter().map(change).collect());
    let outcomes = commit::apply(domain, actor, batch).await?;
    let removal = |(outcome, path): (commit::Outcome, TreePath)| {
        let refusal = outcome.applied().err().map(|r| (r.code(), r.to_string()));
        Removal { path, refusal }
    };
    Ok(outcomes.into_iter().zip(paths).map(removal).collect())
}

/// Deletes one file or folder, a file only in the version that `base` names.
pub async fn delete_one(domain: &Domain, actor: &Actor, path: TreePath, base: Base) -> Result<(), Error> {
    let change = Change::Delete { path, base, recursive: true, half_of_move: false };
    commit::apply_one(domain, actor, Origin::Person, change).await?.applied()?;
    Ok(())
}

/// Brings what was deleted at `path` back, and makes `version` of it current. Restoring what is there already is fine.
pub async fn restore(domain: &Domain, actor: &Actor, path: TreePath, version: Option<i64>) -> Result<Node, Error> {
    let mut tx = domain.begin(actor).await?;
    let (entry_id, in_trash) = tree::find_also_in_trash(&mut tx, actor, &path).await?;
    let wanted = match version {
        None => None,
        Some(version) => {
            let found = tree::contents(&mut tx, actor.user_id(), version).await?;
            let (_, file, contents) = found.filter(|(entry, ..)| *entry == entry_id).ok_or(tree::Error::NoVersion)?;
            Some((file, contents))
        }
    };
    drop(tx);
    let mut changes = Vec::new();
    if in_trash {
        changes.push(Change::Restore { entry_id, to: path.clone() });
    }
    if let Some((file, contents)) = wanted {
        changes.push(Change::Put {
            path: path.clone(),
            contents,
            modified_at: Some(file.modified_at),
            executable: Some(file.executable),
            base: Base::Any,
            on_conflict: OnConflict::Refuse,
            held: None,
        });
    }
    for outcome in commit::apply(domain, actor, Batch::new(Origin::Person, changes)).await? {
        outcome.applied()?;
    }
    let mut tx = domain.begin(actor).await?;
    Ok(tree::node(&mut tx, actor, &path).await?)
}
