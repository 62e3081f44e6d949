//! Decides the folders, once it is known what stays and what comes below them.
//!
//! Invariant: a folder is deleted only when all below it goes, and nothing below it is unknown; a folder that something needs is
//! made, whoever deleted it.
//! Left out: folders that collide with files ([`super::decide`]).

use super::decide::{Marks, Planner};
use super::rows::Row;
use super::{Phase, Record, Side, Step};
use crate::manifest::{Content, Node};

impl<'a> Planner<'a> {
    /// From the bottom up, so that a folder's own fate is known to the one above it.
    pub(super) fn folders(&mut self) {
        for index in (0..self.rows.len()).rev() {
            let row = self.rows[index];
            if !row.closed {
                self.folder(&row);
            }
        }
    }

    fn folder(&mut self, row: &Row<'a>) {
        match (row.device, row.server) {
            (Some(_), Some(_)) => {
                self.mark(row.path, Marks::stays(Side::Device).and(Marks::stays(Side::Server)));
                if !row.base.is_some_and(Node::is_folder) {
                    self.plan.records.push(Record::Agree { path: row.path.clone(), content: Content::Folder });
                }
            }
            (None, None) => {
                // Over an unknown path nothing is forgotten: what the baseline holds there implies this folder.
                if self.marks(row.path) == Marks::default() {
                    self.plan.records.push(Record::Forget { path: row.path.clone() });
                }
            }
            (Some(_), None) => self.folder_on_one(row, Side::Device),
            (None, Some(_)) => self.folder_on_one(row, Side::Server),
        }
    }

    fn folder_on_one(&mut self, row: &Row<'a>, holder: Side) {
        let other = holder.other();
        let marks = self.marks(row.path);
        let deleted = row.base.is_some_and(Node::is_folder);
        // Deletions off: what the device deleted comes back to it, what the server deleted stays on the device.
        let comes_back = deleted && !self.rules.sync_deletions && holder == Side::Server;
        if marks.has(Marks::comes(other)) || ((!deleted || comes_back) && self.changes(other)) {
            self.act(Phase::Folders, other, row.path, Step::CreateFolder, None, Some(Content::Folder));
            self.mark(row.path, Marks::comes(other).and(Marks::stays(other)).and(Marks::stays(holder)));
        } else if deleted && self.rules.sync_deletions && self.changes(holder) && !marks.has(Marks::stays(holder)) {
            self.act(Phase::EmptyFolders, holder, row.path, Step::DeleteFolder, row.on(holder), None);
            if let Some(action) = self.plan.actions.last_mut() {
                action.records.push(Record::Forget { path: row.path.clone() });
            }
        } else {
            self.mark(row.path, Marks::stays(holder));
        }
    }
}
