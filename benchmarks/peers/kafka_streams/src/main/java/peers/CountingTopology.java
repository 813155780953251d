package peers;

import java.nio.file.Path;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers;

/** Counts tests and positive tests of each group, and how Kafka Streams is tuned for it. */
final class CountingTopology {
  /** Room for every group, so that nothing leaves the cache before a commit. */
  private static final long CACHE_BYTES = 512L * 1024 * 1024;

  /**
   * The last tallies come at the commit behind the last record: the default of 30 s for at-least-once
   * is too long for that, and that of 100 ms for exactly-once sends each group too often.
   */
  private static final int COMMIT_MILLIS = 2000;

  static Topology build(String records, String tallies) {
    var builder = new StreamsBuilder();
    builder.stream(records, Consumed.with(Serdes.String(), Serdes.Boolean()))
        .groupByKey()
        .aggregate(
            () -> Tally.NOTHING,
            (group, positive, tally) -> tally.with(positive),
            Materialized.with(Serdes.String(), Tally.SERDE))
        .toStream()
        .to(tallies, Produced.with(Serdes.String(), Tally.SERDE));
    return builder.build();
  }

  static Properties settings(String application, String cluster, String guarantee, Path state) {
    var settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, cluster);
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, guarantee);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    settings.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG, InMemoryDslStoreSuppliers.class);
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, CACHE_BYTES);
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, COMMIT_MILLIS);
    // With the default of 1,000 partitions are paused and resumed all the time.
    settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 20_000);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    // With the default of 3 s the first thread learns so late that the second one has joined.
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), 300);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 20);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 512 * 1024);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
    return settings;
  }

  private CountingTopology() {}
}
