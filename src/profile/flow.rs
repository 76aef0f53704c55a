//! The ways through the instructions of a kernel: what can be reached, loops, the longest way.

use std::collections::{BTreeMap, BTreeSet};

/// The ways through a function.
pub(super) struct Flow {
    pub reached: Vec<bool>,
    /// Jumps to an instruction through which the walk came, from where and where to.
    back: Vec<(usize, usize)>,
    /// Of each, the longest way from the first to it and from it to an end, without jumps back: instructions, itself included.
    from_start: Vec<u32>,
    to_end: Vec<u32>,
}

impl Flow {
    /// Walks from the first instruction, in depth first; `next` has what may follow each.
    pub fn of(next: &[Vec<usize>]) -> Flow {
        let mut reached = vec![false; next.len()];
        let mut is_on_way = vec![false; next.len()];
        let mut back = Vec::new();
        // Every instruction behind all that may follow it, but by a jump back.
        let mut ended: Vec<usize> = Vec::new();
        let mut to_end = vec![0; next.len()];
        // Each instruction of the way with how many of its successors were visited.
        let mut way: Vec<(usize, usize)> = Vec::new();
        if let Some(first) = reached.first_mut() {
            *first = true;
            is_on_way[0] = true;
            way.push((0, 0));
        }
        while let Some((at, visited)) = way.last_mut() {
            let from = *at;
            let Some(&to) = next[from].get(*visited) else {
                let behind = next[from].iter().filter(|&&to| !is_on_way[to]).map(|&to| to_end[to]);
                to_end[from] = 1 + behind.max().unwrap_or(0);
                is_on_way[from] = false;
                ended.push(from);
                way.pop();
                continue;
            };
            *visited += 1;
            if is_on_way[to] {
                back.push((from, to));
            } else if !reached[to] {
                reached[to] = true;
                is_on_way[to] = true;
                way.push((to, 0));
            }
        }
        let mut from_start = vec![1; next.len()];
        let mut place = vec![0; next.len()];
        ended.iter().enumerate().for_each(|(order, &at)| place[at] = order);
        for &at in ended.iter().rev() {
            for &to in next[at].iter().filter(|&&to| place[to] < place[at]) {
                from_start[to] = from_start[to].max(from_start[at] + 1);
            }
        }
        Flow { reached, back, from_start, to_end }
    }

    /// Instructions of the longest way from the first to an end through one, on which none comes twice.
    pub fn way_through(&self, at: usize) -> u32 {
        self.from_start[at] + self.to_end[at] - 1
    }

    /// The loops by their first instruction, each with all instructions in it.
    ///
    /// In it is what leads to a jump back without passing the first instruction. Where the function's start does so, the
    /// jump goes into the middle of something: that is no loop.
    pub fn loops(&self, next: &[Vec<usize>]) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut before = vec![Vec::new(); next.len()];
        for (from, all) in next.iter().enumerate().filter(|(from, _)| self.reached[*from]) {
            all.iter().for_each(|&to| before[to].push(from));
        }
        let mut loops: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for &(from, head) in &self.back {
            let mut body = BTreeSet::from([head]);
            let mut left = vec![from];
            while let Some(at) = left.pop() {
                if body.insert(at) {
                    left.extend(&before[at]);
                }
            }
            if head == 0 || !body.contains(&0) {
                loops.entry(head).or_default().append(&mut body);
            }
        }
        loops
    }
}
