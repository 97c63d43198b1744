use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::desired::{Allow, Attachment, AttachmentSpec, Kind, Masquerade, Network, NetworkSpec};
use crate::naming::Mac;
use crate::object::{LinkKind, Place};
use crate::secret::NetworkKey;

/// A kernel as far as objects go: what is made is there, and what is in something goes with it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    there: BTreeMap<Key, Object>,
    strange: BTreeSet<Key>,
}

impl Model {
    fn observe(&self, object: &Object) -> State {
        let key = object.key();
        if self.strange.contains(&key) {
            return State::Strange;
        }
        match self.there.get(&key) {
            None => State::Absent,
            Some(found) if found == object => State::Same,
            Some(found) if !object.can_replace(found) => State::Unfit,
            Some(_) => State::Different,
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(object) = self.there.remove(key) else {
            return;
        };
        // Both ends of a pair go.
        let mut gone = vec![key.clone()];
        if let Object::Link(link) = object
            && let LinkKind::Veth(peer) = link.kind
        {
            gone.push(Key::Link(peer.place, peer.name));
        }
        let inside: Vec<Key> = self
            .there
            .values()
            .filter(|object| object.containers().iter().any(|key| gone.contains(key)))
            .filter(|object| !stays(object))
            .map(Object::key)
            .collect();
        for key in inside {
            self.remove(&key);
        }
    }

    fn execute(&mut self, step: &Step) {
        let object = step.object();
        let key = object.key();
        assert!(!self.strange.contains(&key), "{step}: somebody else's");
        match step {
            Step::Remove(_) => {
                assert!(self.there.contains_key(&key), "{step}: it is not there");
                self.remove(&key);
            }
            Step::Make(_) => {
                for container in object.containers() {
                    let is_outside = matches!(
                        &container,
                        Key::Namespace(Place::Host | Place::Path(_)) | Key::NetworkFilter(_)
                    );
                    let is_peer =
                        matches!(&container, Key::Link(place, name) if self.has_peer(place, name));
                    let is_loopback = matches!(&container, Key::Link(_, name) if name == "lo");
                    let is_pseudo = matches!(&container, Key::Link(_, name) if name == "all" || name == "default");
                    assert!(
                        is_outside
                            || is_peer
                            || is_loopback
                            || is_pseudo
                            || self.there.contains_key(&container),
                        "{step}: there is no {container:?}"
                    );
                }
                let before = self.there.insert(key, object.clone());
                assert!(before.is_none() || stays(object), "{step}: it is there");
            }
            Step::Mend(_) => {
                let before = self.there.insert(key, object.clone());
                assert!(before.is_some(), "{step}: it is not there");
            }
        }
    }

    fn has_peer(&self, place: &Place, name: &str) -> bool {
        self.there.values().any(|object| match object {
            Object::Link(link) => match &link.kind {
                LinkKind::Veth(peer) => peer.place == *place && peer.name == name,
                _ => false,
            },
            _ => false,
        })
    }

    /// What is there of an entry's objects.
    fn of(&self, objects: &[Object]) -> Vec<Object> {
        let keys: BTreeSet<Key> = objects.iter().map(Object::key).collect();
        self.there
            .iter()
            .filter(|(key, _)| keys.contains(key))
            .map(|(_, object)| object.clone())
            .collect()
    }
}

/// What the kernel, or the node, keeps when its containers go.
fn stays(object: &Object) -> bool {
    matches!(object, Object::PortFilter(_) | Object::Identity { .. })
}

fn network(name: &str, key: u8, masquerade: bool) -> Network {
    let mut spec = NetworkSpec::with_key(NetworkKey::from_raw(&[key; 32]).unwrap());
    spec.masquerade = masquerade.then_some(Masquerade { pair: key.into() });
    Network::new(name.parse().unwrap(), spec).unwrap()
}

fn attachment(network: &Network, name: &str, variant: Variant) -> Attachment {
    let mut spec = AttachmentSpec::of_kind(variant.kind);
    spec.netns = (variant.kind == Kind::Veth).then(|| "/proc/1/ns/net".into());
    spec.mac = variant.mac.map(|byte| Mac::new([2, 0, 0, 0, 0, byte]));
    spec.allow = vec!["tcp/22".parse::<Allow>().unwrap(); variant.rules];
    Attachment::new(network, name.parse().unwrap(), spec).unwrap()
}

#[derive(Clone, Copy, Debug)]
struct Variant {
    kind: Kind,
    mac: Option<u8>,
    rules: usize,
}

fn variant() -> impl Strategy<Value = Variant> {
    let kind = prop_oneof![
        Just(Kind::Tap),
        Just(Kind::Veth),
        Just(Kind::Netns),
        Just(Kind::Host)
    ];
    (kind, proptest::option::of(0..3_u8), 0..3_usize).prop_map(|(kind, mac, rules)| Variant {
        kind,
        mac,
        rules,
    })
}

/// Something that happens to a host.
#[derive(Clone, Debug)]
enum Event {
    /// The attachment is wanted thus, or not any more.
    Want(usize, Option<Variant>),
    /// An object vanishes.
    Lose(Index),
    /// The work on an entry is cut short after so many steps.
    Interrupt(Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..3_usize, proptest::option::of(variant())).prop_map(|(n, v)| Event::Want(n, v)),
        1 => any::<Index>().prop_map(Event::Lose),
        1 => any::<Index>().prop_map(Event::Interrupt),
    ]
}

/// Bring one entry to what is wanted, as the executor does: what is begun is noted first.
fn apply(model: &mut Model, noted: &mut Vec<Object>, wanted: &[Object], limit: usize) {
    let steps = plan(wanted, noted, |object| model.observe(object)).unwrap();
    let mut begun: Vec<Object> = wanted.to_vec();
    let kept: BTreeSet<Key> = begun.iter().map(Object::key).collect();
    let leaving = noted.iter().filter(|old| !kept.contains(&old.key()));
    begun.splice(0..0, leaving.cloned().collect::<Vec<_>>());
    *noted = begun;
    for step in steps.iter().take(limit) {
        model.execute(step);
    }
    if limit >= steps.len() {
        *noted = wanted.to_vec();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_happens_a_host_comes_to_what_is_wanted_and_strangers_stay(
        events in proptest::collection::vec(event(), 1..24),
        masquerade in any::<bool>(),
    ) {
        let network = network("net", 7, masquerade);
        let base = crate::object::network(&network);
        let stranger = crate::object::network(&self::network("other", 9, false));
        let mut model = Model::default();
        for object in &stranger {
            model.there.insert(object.key(), object.clone());
        }
        let before = model.clone();
        let mut base_noted = Vec::new();
        let mut noted: Vec<Vec<Object>> = vec![Vec::new(); 3];
        let mut wanted: Vec<Vec<Object>> = vec![Vec::new(); 3];
        for event in events {
            let mut limit = usize::MAX;
            match event {
                Event::Want(number, variant) => {
                    wanted[number] = variant.map_or_else(Vec::new, |mut variant| {
                        // The host has one way into a network.
                        if number > 0 && variant.kind == Kind::Host {
                            variant.kind = Kind::Netns;
                        }
                        let name = format!("w{number}");
                        crate::object::attachment(&network, &attachment(&network, &name, variant))
                    });
                }
                Event::Lose(index) => {
                    let ours: Vec<Key> = model.there.keys()
                        .filter(|key| !before.there.contains_key(key)).cloned().collect();
                    if !ours.is_empty() {
                        model.remove(index.get(&ours));
                    }
                }
                Event::Interrupt(index) => limit = index.index(20),
            }
            apply(&mut model, &mut base_noted, &base, usize::MAX);
            for number in 0..3 {
                let wanted = wanted[number].clone();
                apply(&mut model, &mut noted[number], &wanted, limit);
                if limit != usize::MAX {
                    apply(&mut model, &mut noted[number], &wanted, usize::MAX);
                }
                prop_assert_eq!(model.of(&wanted).len(), wanted.len());
                for object in &wanted {
                    prop_assert_eq!(model.observe(object), State::Same);
                }
                let again = plan(&wanted, &noted[number], |object| model.observe(object)).unwrap();
                prop_assert_eq!(again, vec![], "a second time there is nothing to do");
            }
        }
        for noted in &mut noted {
            apply(&mut model, noted, &[], usize::MAX);
        }
        apply(&mut model, &mut base_noted, &[], usize::MAX);
        prop_assert_eq!(model, before, "what was made is gone, and nothing else");
    }

    #[test]
    fn nothing_is_done_where_a_stranger_is_in_the_way(index in any::<Index>(), variant in variant()) {
        let network = network("net", 7, false);
        let wanted = crate::object::attachment(&network, &attachment(&network, "w", variant));
        let key = index.get(&wanted).key();
        let model = Model { there: BTreeMap::new(), strange: BTreeSet::from([key]) };
        let refused = plan(&wanted, &[], |object| model.observe(object));
        // Inside what is yet to be made nobody can be in the way.
        let is_inside_new = index.get(&wanted).containers().iter()
            .any(|container| wanted.iter().any(|object| object.key() == *container));
        prop_assert_eq!(refused.is_err(), !is_inside_new);
    }
}

#[test]
fn an_address_that_another_workload_has_is_refused() {
    let network = network("net", 7, false);
    let variant = |mac| Variant {
        kind: Kind::Tap,
        mac: Some(mac),
        rules: 0,
    };
    let first = crate::object::attachment(&network, &attachment(&network, "a", variant(1)));
    let mut model = Model::default();
    for object in crate::object::network(&network).iter().chain(&first) {
        model.there.insert(object.key(), object.clone());
    }
    let mut second = attachment(&network, "b", variant(2));
    second.addresses[0] = attachment(&network, "a", variant(1)).address;
    let second = crate::object::attachment(&network, &second);
    let refusal = plan(&second, &[], |object| model.observe(object)).unwrap_err();
    assert!(refusal.to_string().starts_with("neighbour 4"), "{refusal}");
    assert!(refusal.to_string().contains("is not ours"), "{refusal}");
}

#[test]
fn a_changed_kind_is_removed_first_and_everything_at_it_made_again() {
    let network = network("net", 7, false);
    let variant = |kind| Variant {
        kind,
        mac: None,
        rules: 1,
    };
    let tap = crate::object::attachment(&network, &attachment(&network, "w", variant(Kind::Tap)));
    let veth = crate::object::attachment(&network, &attachment(&network, "w", variant(Kind::Veth)));
    let mut model = Model::default();
    for object in crate::object::network(&network).iter().chain(&tap) {
        model.there.insert(object.key(), object.clone());
    }
    let steps = plan(&veth, &tap, |object| model.observe(object)).unwrap();
    let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let at = |text: &str| texts.iter().position(|step| step.starts_with(text));
    assert!(at("remove tap t-") < at("make veth t-"), "{texts:#?}");
    assert!(at("make filter at t-") < at("make t-"), "{texts:#?}");
    assert_eq!(at("remove rules"), None, "{texts:#?}");
}
