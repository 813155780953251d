//! The offsets of topics and groups: beginning and end offsets of partitions, and committed offsets.

use std::thread;
use std::time::Instant;

use pipeline::offsets::Commit;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::closing::ClosingConsumer;
use crate::cluster::{Cluster, Context};
use crate::error::Error;
use crate::passing::{
    ATTEMPT_TIMEOUT, RETRY_STEP, RETRY_TIMEOUT, knows_better_soon, until_it_passes,
};
use crate::queue::metadata;
use crate::settings::{self, Role};
use crate::topics::{EMPTY_STEP, EMPTY_TIMEOUT};

/// The end offset of each partition: that of the next message to be written. One request to each
/// leader, not one for each partition.
///
/// # Errors
/// When the topic or a leader cannot be asked.
pub fn end_offsets(cluster: &Cluster, topic: &str, partitions: usize) -> Result<Vec<i64>, Error> {
    list_offsets(cluster.inquirer()?, topic, partitions, Offset::End)
}

/// Where each partition ends now, as soon as every transaction before that is decided. (A reader of
/// what is committed sees a partition end before the first that is not, although the offsets that go
/// with it may be committed already: brokers end a transaction partition by partition.)
///
/// # Errors
/// When the topic or a leader cannot be asked, or `stopped` says so.
pub fn decided_end_offsets(
    cluster: &Cluster,
    topic: &str,
    partitions: usize,
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<i64>, Error> {
    let mut config = cluster.config(Role::Reader);
    config.set("isolation.level", "read_uncommitted");
    let inquirer = settings::create(&config, cluster.context())?;
    let end = list_offsets(&inquirer, topic, partitions, Offset::End)?;
    while end_offsets(cluster, topic, partitions)?
        .iter()
        .zip(&end)
        .any(|(decided, end)| decided < end)
    {
        if stopped() {
            return Err(Error::Stopped);
        }
        thread::sleep(RETRY_STEP);
    }
    Ok(end)
}

/// The offset of the first message that each partition still has.
///
/// # Errors
/// When the topic or a leader cannot be asked.
pub fn beginning_offsets(
    cluster: &Cluster,
    topic: &str,
    partitions: usize,
) -> Result<Vec<i64>, Error> {
    list_offsets(cluster.inquirer()?, topic, partitions, Offset::Beginning)
}

fn list_offsets(
    inquirer: &BaseConsumer<Context>,
    topic: &str,
    partitions: usize,
    of: Offset,
) -> Result<Vec<i64>, Error> {
    const ACTION: &str = "ask for its offsets";
    until_it_passes(RETRY_TIMEOUT, || {
        let mut list = TopicPartitionList::with_capacity(partitions);
        for partition in (0..).take(partitions) {
            // ListOffsets takes -1 or -2 for a time and means the end or the beginning by it.
            list.add_partition_offset(topic, partition, of)
                .map_err(Error::topic(topic, ACTION))?;
        }
        let answered = inquirer
            .offsets_for_times(list, ATTEMPT_TIMEOUT)
            .map_err(Error::topic(topic, ACTION))?;
        by_partition(topic, ACTION, &answered, partitions)
    })
}

/// A reader of the committed offsets of a group on a topic.
pub struct GroupOffsets {
    consumer: ClosingConsumer<Context>,
    topic: String,
    partitions: usize,
}

impl GroupOffsets {
    /// Asks about a group without being a member of it.
    ///
    /// # Errors
    /// When a property is wrong.
    pub fn new(
        cluster: &Cluster,
        group: &str,
        topic: &str,
        partitions: usize,
    ) -> Result<Self, Error> {
        let mut config = cluster.config(Role::Reader);
        config.set("group.id", group);
        Ok(Self {
            consumer: ClosingConsumer::create(&config, cluster.context())?,
            topic: topic.to_owned(),
            partitions,
        })
    }

    /// The committed offset of each partition; 0 without one.
    ///
    /// # Errors
    /// When the group's coordinator cannot be asked.
    pub fn committed(&self) -> Result<Vec<i64>, Error> {
        let (_, offsets) = self.ask()?;
        Ok(offsets)
    }

    /// Moves the group to these offsets, with nothing in their metadata. A broker allows it while the
    /// group has no members, so those that have just died are waited for.
    ///
    /// # Errors
    /// When the group keeps members, or its coordinator cannot be asked.
    pub fn move_to(&self, offsets: &[(i32, i64)]) -> Result<(), Error> {
        const ACTION: &str =
            "move a group's offsets; end its workers, then start `dispatcher --resume` again";
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for &(partition, offset) in offsets {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))
                .map_err(Error::topic(&self.topic, ACTION))?;
        }
        let until = Instant::now() + EMPTY_TIMEOUT;
        loop {
            match self.consumer.commit(&list, CommitMode::Sync) {
                Err(KafkaError::ConsumerCommit(code))
                    if (code == RDKafkaErrorCode::UnknownMemberId || knows_better_soon(code))
                        && Instant::now() < until =>
                {
                    thread::sleep(EMPTY_STEP);
                }
                moved => return moved.map_err(Error::topic(&self.topic, ACTION)),
            }
        }
    }

    fn ask(&self) -> Result<(TopicPartitionList, Vec<i64>), Error> {
        const ACTION: &str = "ask for a group's offsets";
        until_it_passes(RETRY_TIMEOUT, || {
            let mut list = TopicPartitionList::with_capacity(self.partitions);
            for partition in (0..).take(self.partitions) {
                list.add_partition(&self.topic, partition);
            }
            let answered = self
                .consumer
                .committed_offsets(list, ATTEMPT_TIMEOUT)
                .map_err(Error::topic(&self.topic, ACTION))?;
            let offsets = by_partition(&self.topic, ACTION, &answered, self.partitions)?;
            Ok((answered, offsets))
        })
    }

    /// The commits of the group, with their metadata; partitions without one are left out.
    ///
    /// # Errors
    /// When the group's coordinator cannot be asked.
    pub fn commits(&self) -> Result<Vec<Commit>, Error> {
        let (list, _) = self.ask()?;
        let metadata = metadata(&list);
        let elements = list.elements();
        let commits = elements.iter().zip(metadata).map(|(element, metadata)| {
            let partition = element.partition();
            Some(Commit {
                partition,
                offset: match element.offset() {
                    Offset::Offset(offset) => offset,
                    _ => return None,
                },
                metadata,
            })
        });
        Ok(commits.flatten().collect())
    }
}

fn by_partition(
    topic: &str,
    action: &'static str,
    list: &TopicPartitionList,
    partitions: usize,
) -> Result<Vec<i64>, Error> {
    let mut offsets = vec![0; partitions];
    for element in list.elements() {
        element.error().map_err(Error::topic(topic, action))?;
        let own = usize::try_from(element.partition()).ok();
        if let (Some(own), Offset::Offset(offset)) = (
            own.and_then(|partition| offsets.get_mut(partition)),
            element.offset(),
        ) {
            *own = offset;
        }
    }
    Ok(offsets)
}
