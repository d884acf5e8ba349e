//! Services: three linked messages under one name, and the hash that rmw_zenoh puts into the key of a service.

use std::sync::Arc;

use super::{Link, Registry, Type};
use crate::definition::ServiceDefinition;
use crate::names;

/// A service with its messages resolved.
#[derive(Clone, Debug)]
pub struct Service {
    /// What the file says.
    pub definition: Arc<ServiceDefinition>,
    /// Name in the registry, with `@variant` where there is one.
    pub id: String,
    /// Name on the wire, `std_srvs/srv/Trigger`.
    pub name: String,
    /// The service as a message of its three messages: what the hash describes.
    shape: Type,
}

impl Registry {
    /// All services, sorted by id.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter()
    }

    /// The service of that name, in any spelling that [`names::ros_service`] knows.
    #[must_use]
    pub fn find_service(&self, name: &str) -> Option<&Service> {
        self.service_variants(name).next()
    }

    /// All services of that name: more than one only where packages share a name. The usual package comes first.
    pub fn service_variants(&self, name: &str) -> impl Iterator<Item = &Service> {
        let wanted = names::ros_service(name);
        let mut found: Vec<&Service> = self
            .services
            .iter()
            .filter(|service| {
                wanted.as_ref() == Some(&service.id) || wanted.as_ref() == Some(&service.name)
            })
            .collect();
        found.sort_by_key(|service| service.id.len());
        found.into_iter()
    }

    /// What a client of the service sends.
    #[must_use]
    pub fn request(&self, service: &Service) -> Option<&Type> {
        self.part(service, 0)
    }

    /// What a server of the service answers.
    #[must_use]
    pub fn response(&self, service: &Service) -> Option<&Type> {
        self.part(service, 1)
    }

    /// The hash of a service by name, `RIHS01_` and 64 hexadecimal digits.
    #[must_use]
    pub fn service_hash(&self, name: &str) -> Option<String> {
        self.find_service(name)
            .map(|service| self.hash_of(&service.shape))
    }

    /// The service with that name and hash: tells apart packages that share a name.
    #[must_use]
    pub fn service_with_hash(&self, name: &str, hash: &str) -> Option<&Service> {
        self.service_variants(name)
            .find(|service| self.hash_of(&service.shape) == hash)
    }

    /// `: did you mean ...?` for a service that is not known.
    #[must_use]
    pub fn service_suggestion(&self, name: &str) -> String {
        let name = names::ros_service(name).unwrap_or_else(|| name.to_owned());
        match names::closest(&name, self.services.iter().map(|s| s.id.as_str())) {
            Some(known) => format!(": did you mean `{known}`?"),
            None => String::new(),
        }
    }

    fn part(&self, service: &Service, position: usize) -> Option<&Type> {
        let index = service.shape.links.get(position)?.message?;
        self.types.get(index)
    }

    pub(super) fn insert_service(&mut self, service: ServiceDefinition) {
        for part in service.parts() {
            self.insert(part.clone());
        }
        self.service_definitions
            .insert(service.id(), Arc::new(service));
    }

    /// Makes the services from the types, which are linked already.
    pub(super) fn link_services(&mut self) {
        self.services = self
            .service_definitions
            .iter()
            .map(|(id, service)| {
                let index = |name: String| self.by_id.get(&name).copied();
                let links = service.parts().map(|part| Link {
                    message: index(part.id()),
                    names: None,
                });
                let definition = Arc::new(service.shape());
                let name = service.type_name();
                Service {
                    definition: Arc::clone(service),
                    id: id.clone(),
                    name: name.clone(),
                    shape: Type {
                        definition,
                        id: id.clone(),
                        name,
                        min_bytes: 0,
                        links: links.into(),
                    },
                }
            })
            .collect();
    }
}
