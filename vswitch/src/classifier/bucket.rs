//! The rules that are filed under one mask and hash: one, a list by priority, or a space of exact masks.

use std::cmp::Reverse;
use std::sync::Arc;

use weft_packet::{FlowKey, FlowMask};
use weft_program::RuleKey;

use super::CompiledRule;
use super::mask::Secrets;
use super::packed::Packed;
use super::space::{Search, Space};

/// Rules of one bucket that are tried one by one. With more, the bucket becomes a space of exact masks.
const LIST_MAX: usize = 32;

/// The rules, the highest priority first.
#[derive(Clone)]
pub(super) enum Bucket {
    One(Packed),
    /// The highest priority, and up to [`LIST_MAX`] rules.
    List(u16, Arc<[Packed]>),
    /// The highest priority, and more rules.
    Split(u16, Arc<Space>),
}

impl Bucket {
    pub(super) fn new(rule: Arc<CompiledRule>) -> Self {
        Self::One(Packed::new(rule))
    }

    /// Goes down the list to the first rule that matches.
    #[inline]
    pub(super) fn lookup<'t>(&'t self, search: &mut Search<'_, 't>) {
        match self {
            Self::One(rule) => {
                search.try_rule(rule);
            }
            Self::List(priority, rules) => {
                if search.is_beaten_by(*priority) {
                    rules.iter().find(|rule| search.try_rule(rule));
                }
            }
            Self::Split(priority, space) => {
                if search.is_beaten_by(*priority) {
                    space.lookup(search);
                }
            }
        }
    }

    pub(super) fn get(&self, secrets: &Secrets, key: &RuleKey) -> Option<&Arc<CompiledRule>> {
        match self {
            Self::Split(_, space) => space.get(secrets, key),
            _ => self.list().iter().map(|packed| &packed.rule).find(|rule| is_at(rule, key)),
        }
    }

    pub(super) fn each<'t>(&'t self, rules: &mut Vec<&'t Arc<CompiledRule>>) {
        match self {
            Self::Split(_, space) => space.each(rules),
            _ => rules.extend(self.list().iter().map(|packed| &packed.rule)),
        }
    }

    /// Puts a rule in place of the one with its key. Whether there was none.
    pub(super) fn insert(&mut self, secrets: &Secrets, rule: Arc<CompiledRule>, may_split: bool) -> bool {
        if let Self::Split(priority, space) = self {
            let space = Arc::make_mut(space);
            let before = space.len();
            *priority = (*priority).max(rule.rule.key.priority);
            space.insert(secrets, rule);
            space.settle();
            return space.len() > before;
        }
        let mut rules = self.list().to_vec();
        let known = rules.iter_mut().find(|known| is_at(&known.rule, &rule.rule.key));
        let is_new = known.is_none();
        match known {
            Some(known) => *known = Packed::new(rule),
            None => {
                let place = rules.partition_point(|known| order(&known.rule) < order(&rule));
                rules.insert(place, Packed::new(rule));
            }
        }
        if may_split && rules.len() > LIST_MAX {
            let mut space = Space::new(false);
            let priority = rules[0].priority;
            rules.into_iter().for_each(|packed| space.insert(secrets, packed.rule));
            space.settle();
            *self = Self::Split(priority, Arc::new(space));
        } else {
            self.set_list(rules);
        }
        is_new
    }

    /// Takes out a rule that is there. Whether none is left, in which case the bucket has to go.
    pub(super) fn remove(&mut self, secrets: &Secrets, key: &RuleKey) -> bool {
        let Self::Split(priority, space) = self else {
            let rules: Vec<_> = self.list().iter().filter(|packed| !is_at(&packed.rule, key)).cloned().collect();
            if rules.is_empty() {
                return true;
            }
            self.set_list(rules);
            return false;
        };
        let space = Arc::make_mut(space);
        space.remove(secrets, key);
        space.settle();
        if space.len() > LIST_MAX {
            *priority = space.priority_max();
            return false;
        }
        let mut rules = Vec::with_capacity(space.len());
        space.each(&mut rules);
        rules.sort_by(|a, b| order(a).cmp(&order(b)));
        let rules = rules.into_iter().map(|rule| Packed::new(Arc::clone(rule))).collect();
        self.set_list(rules);
        false
    }

    fn list(&self) -> &[Packed] {
        match self {
            Self::One(rule) => std::slice::from_ref(rule),
            Self::List(_, rules) => rules,
            Self::Split(..) => &[],
        }
    }

    fn set_list(&mut self, mut rules: Vec<Packed>) {
        *self = match rules.len() {
            1 => Self::One(rules.remove(0)),
            _ => Self::List(rules[0].priority, rules.into()),
        };
    }
}

fn is_at(rule: &CompiledRule, key: &RuleKey) -> bool {
    rule.rule.key.priority == key.priority && rule.rule.key.matches == key.matches
}

/// Between equal priorities the smaller mask is first.
fn order(rule: &CompiledRule) -> (Reverse<u16>, &FlowMask, &FlowKey) {
    let key = &rule.rule.key;
    (Reverse(key.priority), &key.matches.mask, &key.matches.value)
}
