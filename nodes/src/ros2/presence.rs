//! Being seen: the liveliness tokens of nodes and their endpoints, for as long as these exist.

use std::sync::Arc;

use llmasos_msgs::rmw_zenoh::{Endpoint, Entity, EntityKind, Gid, QosProfile};
use zenoh::liveliness::LivelinessToken;

use super::{
    Ros2, Subject,
    watch::{Own, Watched},
};
use crate::{
    bus::{BusError, topic_error},
    health::NodeHealth,
};

/// A node's own token; its endpoints hold it.
pub(super) struct NodeToken {
    entity: Entity,
    _token: LivelinessToken,
}

impl NodeToken {
    pub(super) async fn declare(ros2: &Ros2, name: &str) -> Result<NodeToken, BusError> {
        let id = ros2.take_id();
        let entity = Entity {
            domain: ros2.shared.options.domain,
            session: ros2.shared.session.zid().to_string(),
            node_id: id,
            id,
            enclave: String::new(),
            namespace: ros2.shared.namespace.clone(),
            node: name.to_owned(),
            kind: EntityKind::Node,
            endpoint: None,
        };
        Ok(NodeToken {
            _token: declare(ros2, &entity).await?,
            entity,
        })
    }
}

/// An endpoint that others see. Gone when dropped.
pub struct Presence {
    gid: Gid,
    _token: LivelinessToken,
    _node: Arc<NodeToken>,
    _watched: Watched,
}

impl Presence {
    pub(super) async fn declare(
        ros2: &Ros2,
        node: Arc<NodeToken>,
        health: &NodeHealth,
        kind: EntityKind,
        subject: &Subject,
        qos: QosProfile,
        topic: &str,
    ) -> Result<Presence, BusError> {
        let entity = Entity {
            id: ros2.take_id(),
            kind,
            endpoint: Some(Endpoint {
                name: subject.name.clone(),
                type_name: subject.type_name.clone(),
                hash: subject.hash.clone(),
                qos,
            }),
            ..node.entity.clone()
        };
        let token = declare(ros2, &entity).await?;
        let watched = ros2.shared.watch.add(Own {
            kind,
            subject: subject.clone(),
            topic: topic.to_owned(),
            health: health.clone(),
        });
        Ok(Presence {
            gid: entity.gid(),
            _token: token,
            _node: node,
            _watched: watched,
        })
    }

    /// Its identity in attachments.
    pub fn gid(&self) -> Gid {
        self.gid
    }
}

async fn declare(ros2: &Ros2, entity: &Entity) -> Result<LivelinessToken, BusError> {
    let key = entity.to_string();
    ros2.shared
        .session
        .liveliness()
        .declare_token(key.clone())
        .await
        .map_err(|error| topic_error(&key, &error))
}
