package peers;

import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.IntStream;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Keeps the last tally of each group, until the tests in them are as many as there are rows. */
final class TallyCollector {
  private static final Duration POLL = Duration.ofMillis(50);

  private final String cluster;
  private final String topic;
  private final int partitions;

  /** How many rows there are; negative as long as that is not known. */
  private volatile long rows = -1;

  TallyCollector(String cluster, String topic, int partitions) {
    this.cluster = cluster;
    this.topic = topic;
    this.partitions = partitions;
  }

  /** Says how many rows there are. */
  void expect(long rows) {
    this.rows = rows;
  }

  /** Reads the tallies topic until every row is accounted for. */
  Map<String, Tally> collect() {
    Map<String, Object> settings =
        Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, cluster,
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed",
            // Closing waits for the fetch that is under way: with the default, for 500 ms.
            ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG, 20,
            ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 10_000);
    Map<String, Tally> tallies = new HashMap<>(1 << 21);
    long tests = 0;
    try (var consumer =
        new KafkaConsumer<>(settings, new StringDeserializer(), Tally.SERDE.deserializer())) {
      var all =
          IntStream.range(0, partitions).mapToObj(number -> new TopicPartition(topic, number)).toList();
      consumer.assign(all);
      consumer.seekToBeginning(all);
      while (rows < 0 || tests < rows) {
        for (var record : consumer.poll(POLL)) {
          var before = tallies.put(record.key(), record.value());
          tests += record.value().tests() - (before == null ? 0 : before.tests());
        }
      }
    }
    if (tests != rows) {
      throw new IllegalStateException(tests + " tests of " + rows + " rows");
    }
    return tallies;
  }
}
