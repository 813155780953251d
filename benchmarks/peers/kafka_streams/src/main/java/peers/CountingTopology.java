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
    settings.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG, stores());
    // The cache takes up what comes for the same group between two commits.
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, cacheBytes());
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, commitMillis());
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 20);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 512 * 1024);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
    return settings;
  }

  private static Class<?> stores() {
    return Boolean.getBoolean("peers.rocks")
        ? org.apache.kafka.streams.state.BuiltInDslStoreSuppliers.RocksDBDslStoreSuppliers.class
        : InMemoryDslStoreSuppliers.class;
  }

  private static long cacheBytes() {
    return Long.getLong("peers.cache", 512L * 1024 * 1024);
  }

  private static long commitMillis() {
    return Long.getLong("peers.commit", 1000);
  }

  private CountingTopology() {}
}
