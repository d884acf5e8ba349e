//! The models of a graph: present, loaded on their own threads, asked through clients that survive restarts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use llmasos_engine::{
    ModelFolder, Runtime,
    audio::{Moonshine, VoiceActivity},
    text::{LanguageModel, LoadOptions},
    vision::{DetectOptions, Detector, Selection},
};
use llmasos_nodes::{
    health::Health,
    language::{LanguageClient, LanguageServer, LoadLanguage},
    model::{Load, ModelClient, ModelServer, Work},
    supervise::{Child, RestartPolicy, Start},
    workers::{DetectWork, RecogniseWork, VoiceWork},
};
use ractor::Actor;
use sha2::{Digest, Sha256};

use super::configure;
use crate::{
    descriptor::graph::{Fetch, Graph, ModelSpec, NodeSpec, Params},
    models::{Cancel, Console, FetchPolicy, Models},
};

/// Tokens a language model keeps when the descriptor does not say.
const CONTEXT_TOKENS: usize = 1024;
/// File that says what a model folder is.
const MANIFEST: &str = "llmasos.json";

/// Folders of the graph's models and data, by catalogue name.
pub type Folders = BTreeMap<String, PathBuf>;

/// Fetches and builds what is missing, saying size and time first. Blocks.
///
/// # Errors
/// What the catalogue says, with the next step.
pub fn ensure(names: &BTreeMap<String, Fetch>, cancel: &Cancel) -> Result<Folders> {
    let mut models = Models::from_environment(&[])?;
    let mut reporter = Console::new(cancel.clone());
    let wanted: Vec<&str> = names
        .iter()
        .filter(|(_, fetch)| **fetch == Fetch::IfAbsent)
        .map(|(name, _)| name.as_str())
        .collect();
    if let Some(line) = models.plan(&wanted)?.announcement() {
        eprintln!("{line}");
    }
    let mut folders = Folders::new();
    for (name, fetch) in names {
        let policy = match fetch {
            Fetch::IfAbsent => FetchPolicy::Auto,
            Fetch::Never => FetchPolicy::Never,
        };
        folders.insert(name.clone(), models.ensure(name, policy, &mut reporter)?);
    }
    Ok(folders)
}

/// Clients of the model servers, by the name the nodes use.
#[derive(Default)]
pub struct Servers {
    voice: BTreeMap<String, ModelClient<VoiceWork>>,
    recogniser: BTreeMap<String, ModelClient<RecogniseWork>>,
    detector: BTreeMap<String, ModelClient<DetectWork>>,
    language: BTreeMap<String, LanguageClient>,
    /// The servers, for the supervisor.
    pub children: Vec<Child>,
}

/// Everything a server needs to be started.
pub struct Ground<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Where the models are.
    pub folders: &'a Folders,
    /// ONNX Runtime.
    pub runtime: &'a Runtime,
    /// Who is told.
    pub health: &'a Health,
}

impl Servers {
    /// The client of a node's model of a role, made with its server on first use.
    fn server<W: Work>(
        clients: &mut BTreeMap<String, ModelClient<W>>,
        children: &mut Vec<Child>,
        ground: &Ground<'_>,
        name: &str,
        load: impl Fn(&Runtime, &ModelFolder, &ModelSpec) -> Result<W, String> + Send + Sync + 'static,
    ) -> Result<ModelClient<W>> {
        if let Some(client) = clients.get(name) {
            return Ok(client.clone());
        }
        let (spec, dir) = place(ground, name)?;
        let client = ModelClient::new(name);
        let runtime = ground.runtime.clone();
        let load: Load<W> = Arc::new(move || {
            let folder = ModelFolder::open(&dir).map_err(|error| error.to_string())?;
            load(&runtime, &folder, &spec)
        });
        children.push(child(
            name,
            load,
            client.clone(),
            ground.health,
            configure::restart(ground.graph, name),
        ));
        clients.insert(name.to_owned(), client.clone());
        Ok(client)
    }

    /// Voice activity of a speech node.
    pub fn voice(
        &mut self,
        ground: &Ground<'_>,
        node: &NodeSpec,
    ) -> Result<ModelClient<VoiceWork>> {
        let name = role(node, "vad")?;
        Self::server(
            &mut self.voice,
            &mut self.children,
            ground,
            name,
            |runtime, folder, _| {
                VoiceActivity::load(runtime, folder)
                    .map(VoiceWork::new)
                    .map_err(|error| error.to_string())
            },
        )
    }

    /// Recogniser of a speech node.
    pub fn recogniser(
        &mut self,
        ground: &Ground<'_>,
        node: &NodeSpec,
    ) -> Result<ModelClient<RecogniseWork>> {
        let name = role(node, "asr")?;
        Self::server(
            &mut self.recogniser,
            &mut self.children,
            ground,
            name,
            |runtime, folder, _| {
                Moonshine::load(runtime, folder)
                    .map(RecogniseWork::new)
                    .map_err(|error| error.to_string())
            },
        )
    }

    /// Detector of a summary node, if it has one.
    pub fn detector(
        &mut self,
        ground: &Ground<'_>,
        node: &NodeSpec,
    ) -> Result<Option<ModelClient<DetectWork>>> {
        let Some(name) = node.model("detector") else {
            return Ok(None);
        };
        let min_score = match &node.params {
            Params::Summary(params) => params.min_score,
            Params::Speech(_) | Params::Advisor(_) => Selection::default().min_score,
        };
        let options = DetectOptions {
            selection: Selection {
                min_score,
                ..Selection::default()
            },
            ..DetectOptions::default()
        };
        let client = Self::server(
            &mut self.detector,
            &mut self.children,
            ground,
            name,
            move |runtime, folder, _| {
                Detector::load(runtime, folder)
                    .map(|model| DetectWork::new(model, options))
                    .map_err(|error| error.to_string())
            },
        )?;
        Ok(Some(client))
    }

    /// Language model of a node, if it has one.
    pub fn language(
        &mut self,
        ground: &Ground<'_>,
        node: &NodeSpec,
    ) -> Result<Option<LanguageClient>> {
        let Some(name) = node.model("language") else {
            return Ok(None);
        };
        if let Some(client) = self.language.get(name) {
            return Ok(Some(client.clone()));
        }
        let (spec, dir) = place(ground, name)?;
        let (client, runtime) = (LanguageClient::new(name), ground.runtime.clone());
        let load: LoadLanguage = Arc::new(move || {
            let folder = ModelFolder::open(&dir).map_err(|error| error.to_string())?;
            let options = LoadOptions {
                context: spec.context.unwrap_or(CONTEXT_TOKENS),
                cache_bytes: spec.kv_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
                ..LoadOptions::default()
            };
            LanguageModel::load(&runtime, &folder, &options).map_err(|error| error.to_string())
        });
        self.children.push(language_child(
            name,
            load,
            client.clone(),
            ground.health,
            configure::restart(ground.graph, name),
        ));
        self.language.insert(name.to_owned(), client.clone());
        Ok(Some(client))
    }

    /// Fault injection: stalls a model. `false` when there is none of that name.
    pub fn stall(&self, name: &str, hold: std::time::Duration) -> bool {
        self.voice
            .get(name)
            .is_some_and(|client| client.stall(hold))
            || self
                .recogniser
                .get(name)
                .is_some_and(|client| client.stall(hold))
            || self
                .detector
                .get(name)
                .is_some_and(|client| client.stall(hold))
            || self
                .language
                .get(name)
                .is_some_and(|client| client.stall(hold))
    }
}

/// What the descriptor says of a model, and where its files are.
fn place(ground: &Ground<'_>, name: &str) -> Result<(ModelSpec, PathBuf)> {
    let spec = ground
        .graph
        .models
        .get(name)
        .with_context(|| format!("model {name} is not in the descriptor"))?;
    let dir = ground
        .folders
        .get(&spec.catalogue)
        .with_context(|| format!("model {} was not fetched", spec.catalogue))?;
    Ok((spec.clone(), dir.clone()))
}

fn role<'a>(node: &'a NodeSpec, role: &str) -> Result<&'a str> {
    node.model(role)
        .with_context(|| format!("node {} has no model for {role}", node.name))
}

fn child<W: Work>(
    name: &str,
    load: Load<W>,
    client: ModelClient<W>,
    health: &Health,
    policy: RestartPolicy,
) -> Child {
    let (health, own) = (health.node(name), name.to_owned());
    let start: Start = Arc::new(move |supervisor| {
        let (server, load) = (
            ModelServer::new(&own, health.clone(), client.clone()),
            Arc::clone(&load),
        );
        Box::pin(async move {
            ModelServer::spawn_linked(None, server, load, supervisor)
                .await
                .map(|(actor, _)| actor.get_cell())
        })
    });
    Child {
        name: name.to_owned(),
        policy,
        after: Vec::new(),
        start,
    }
}

fn language_child(
    name: &str,
    load: LoadLanguage,
    client: LanguageClient,
    health: &Health,
    policy: RestartPolicy,
) -> Child {
    let (health, own) = (health.node(name), name.to_owned());
    let start: Start = Arc::new(move |supervisor| {
        let (server, load) = (
            LanguageServer::new(&own, health.clone(), client.clone()),
            Arc::clone(&load),
        );
        Box::pin(async move {
            LanguageServer::spawn_linked(None, server, load, supervisor)
                .await
                .map(|(actor, _)| actor.get_cell())
        })
    });
    Child {
        name: name.to_owned(),
        policy,
        after: Vec::new(),
        start,
    }
}

/// SHA-256 of a model's manifest, which holds the hash of every file: one number that says who answered.
pub fn manifest_sha256(folder: &Path) -> Result<[u8; 32]> {
    let path = folder.join(MANIFEST);
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Sha256::digest(&bytes).into())
}

/// Catalogue names a graph needs: its models, and the data its sources play.
pub fn needed(graph: &Graph, with_sources: bool) -> BTreeMap<String, Fetch> {
    use crate::descriptor::graph::{Feed, PictureFolder, Recording};
    let mut names: BTreeMap<String, Fetch> = graph
        .models
        .values()
        .map(|spec| (spec.catalogue.clone(), spec.fetch))
        .collect();
    let data = graph
        .sources
        .iter()
        .filter(|_| with_sources)
        .filter_map(|source| match &source.feed {
            Feed::Wav {
                file: Recording::Catalogue { entry, .. },
                ..
            } => Some(entry),
            Feed::Images { pictures, .. } => match &pictures.from {
                PictureFolder::Catalogue(entry) => Some(entry),
                PictureFolder::Folder(_) => None,
            },
            Feed::Wav { .. } | Feed::JsonLines { .. } | Feed::Text { .. } | Feed::Fault { .. } => {
                None
            }
        });
    for entry in data {
        names.entry(entry.clone()).or_insert(graph.fetch);
    }
    names
}
