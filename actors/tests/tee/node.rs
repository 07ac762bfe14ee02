//! A node of the source's cluster: a core, what it has under way, and its connections.

use super::target::Bound;
use bytes::BytesMut;
use lance_actors::outbound::{LinkAnswer, LinkId};
use lance_actors::tee::core::flow::FlowId;
use lance_actors::tee::core::{ReadFrom, TeeCore, TeeEffect, TeeNote, TeeOptions};
use lance_actors::view::ClusterView;
use lance_cluster::metadata::{MetadataAnswer, MetadataCommand, TeeAdvance, TeeClaim};
use lance_messages::id::TeeId;
use lance_messages::wire::{Response, ResponseFrame};
use std::collections::{BTreeMap, VecDeque};

/// What a core asked for and was not answered yet.
#[derive(Debug)]
pub enum Asked {
    Claim(Vec<(FlowId, TeeClaim)>),
    Advance(Vec<(FlowId, TeeAdvance)>),
    Claimed(Vec<(FlowId, TeeClaim)>, Option<MetadataAnswer>),
    Advanced(Vec<(FlowId, TeeAdvance)>, Option<MetadataAnswer>),
    Read { flow: FlowId, ticket: u64, from: ReadFrom, max_bytes: usize },
    Wait { flow: FlowId, offset: u64, until_ms: u64 },
    Look,
    Survey(TeeId),
}

/// One connection.
#[derive(Default)]
pub struct Link {
    pub up: bool,
    pub bound: Bound,
    pub to_target: BytesMut,
    pub from_target: VecDeque<Response>,
}

pub struct Node {
    pub core: TeeCore,
    pub asked: VecDeque<Asked>,
    pub links: BTreeMap<LinkId, Link>,
    pub view: ClusterView,
    pub notes: Vec<TeeNote>,
    pub effects: Vec<TeeEffect>,
}

pub const CLUSTER: u64 = 9;

impl Node {
    pub fn new(buffer_bytes: usize) -> Self {
        let options = TeeOptions { buffer_bytes, in_kernel: false, seed: 3, first_flow: 1, first_link: 1 };
        Self {
            core: TeeCore::new(options),
            asked: VecDeque::new(),
            links: BTreeMap::new(),
            view: ClusterView::default(),
            notes: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// The actor panicked, or its process died: everything that was under way is forgotten.
    pub fn crash(&mut self, buffer_bytes: usize, now_ms: u64) {
        let (first_flow, first_link) = self.core.next_numbers();
        self.core = TeeCore::new(TeeOptions { buffer_bytes, in_kernel: false, seed: 3, first_flow, first_link });
        self.asked.clear();
        self.links.clear();
        let view = self.view.clone();
        self.with(|core, effects| core.on_view(&view, now_ms, effects), now_ms);
    }

    pub fn show(&mut self, view: ClusterView, now_ms: u64) {
        self.view = view.clone();
        self.with(|core, effects| core.on_view(&view, now_ms, effects), now_ms);
    }

    pub fn with(&mut self, work: impl FnOnce(&mut TeeCore, &mut Vec<TeeEffect>), now_ms: u64) {
        work(&mut self.core, &mut self.effects);
        for effect in self.effects.drain(..) {
            match effect {
                TeeEffect::Claim(claims) => self.asked.push_back(Asked::Claim(claims)),
                TeeEffect::Advance(advances) => self.asked.push_back(Asked::Advance(advances)),
                TeeEffect::Read { flow, ticket, from, max_bytes, .. } => {
                    self.asked.push_back(Asked::Read { flow, ticket, from, max_bytes });
                }
                TeeEffect::Wait { flow, offset, .. } => {
                    self.asked.push_back(Asked::Wait { flow, offset, until_ms: now_ms + 5000 });
                }
                TeeEffect::Look(_) => self.asked.push_back(Asked::Look),
                TeeEffect::Survey { tee, .. } => self.asked.push_back(Asked::Survey(tee)),
                TeeEffect::Open { link, .. } => {
                    self.links.insert(link, Link::default());
                }
                TeeEffect::Send { link, pieces } => {
                    if let Some(link) = self.links.get_mut(&link) {
                        pieces.iter().for_each(|piece| link.to_target.extend_from_slice(piece.in_memory().unwrap()));
                    }
                }
                TeeEffect::Close(link) => {
                    self.links.remove(&link);
                }
                TeeEffect::Note { note, .. } => self.notes.push(note),
            }
        }
    }

    pub fn answers(&mut self, link: LinkId, responses: Vec<Response>, now_ms: u64) {
        let answers = responses
            .into_iter()
            .map(|response| LinkAnswer { frame: ResponseFrame { correlation: 1, response }, data_crc: 0 });
        let answers: Vec<LinkAnswer> = answers.collect();
        self.with(|core, effects| core.on_answers(link, answers, now_ms, effects), now_ms);
    }
}

/// The command that a proposal becomes.
pub fn command_of(asked: &Asked) -> MetadataCommand {
    match asked {
        Asked::Claim(claims) => MetadataCommand::ClaimTees { claims: claims.iter().map(|claim| claim.1).collect() },
        Asked::Advance(advances) => {
            MetadataCommand::AdvanceTees { advances: advances.iter().map(|advance| advance.1).collect() }
        }
        other => panic!("{other:?} is no proposal"),
    }
}
