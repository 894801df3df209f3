//! How a state gets to the agent: a folder of manifests, or an API server.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    agent::Source,
    api::{Cluster, Pool},
    format::{Case, State},
    manifests,
    run::Objects,
    site::Site,
};

/// Where the agent gets a scenario's objects from.
pub(crate) enum Feed<'a> {
    /// A folder.
    Folder(Folder),
    /// An API server.
    Api(Box<Cluster<'a>>),
}

impl<'a> Feed<'a> {
    /// The way that the scenario and the options ask for, with the first state in it. What the API server of today
    /// does not take goes by a folder: old objects may still look like that.
    pub(crate) fn start(
        case: &Case,
        site: &Site,
        (objects, pool): (Objects, &'a Pool),
        state: &State,
        marker: &[Value; 2],
    ) -> Result<Self> {
        if case.api_valid && objects == Objects::Api {
            match pool.cluster(site.own()?.netns())? {
                None => eprintln!(
                    "{}: no API server is to be had: objects go by a folder",
                    case.name
                ),
                Some(mut cluster) => match cluster.apply(state, marker) {
                    Ok(()) => return Ok(Self::Api(Box::new(cluster))),
                    Err(error) => eprintln!("{}: {error:#}; its objects go by a folder", case.name),
                },
            }
        }
        let folder = Folder::new(&site.lab.folder())?;
        folder.apply(state, marker)?;
        Ok(Self::Folder(folder))
    }

    /// A later state.
    pub(crate) fn apply(&mut self, state: &State, marker: &[Value; 2]) -> Result<()> {
        match self {
            Self::Folder(folder) => folder.apply(state, marker),
            Self::Api(cluster) => cluster.apply(state, marker),
        }
    }

    /// What the agent is told.
    pub(crate) fn source(&self) -> Source {
        match self {
            Self::Folder(folder) => Source::Folder(folder.path.clone()),
            Self::Api(cluster) => Source::Api(cluster.kubeconfig()),
        }
    }
}

/// A folder of manifests that the agent follows.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new one, in the lab's folder.
    fn new(lab: &Path) -> Result<Self> {
        let path = lab.join("manifests");
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Replaces what is there, all of it at once.
    fn apply(&self, state: &State, marker: &[Value; 2]) -> Result<()> {
        let mut text = String::new();
        for object in manifests::objects(state).iter().chain(marker) {
            // JSON is YAML too.
            text.push_str(&serde_json::to_string(object)?);
            text.push_str("\n---\n");
        }
        let file = self.path.join("state.yaml");
        let new = self.path.join("state.new");
        fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, &file).with_context(|| format!("cannot write {}", file.display()))
    }
}
