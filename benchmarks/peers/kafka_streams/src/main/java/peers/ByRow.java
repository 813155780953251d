package peers;

import java.util.Properties;
import java.util.stream.Stream;
import org.apache.kafka.common.serialization.BooleanSerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers;

/**
 * A record for each row: the key of its group, and whether it is positive. The topology counts them
 * in a state store, which a changelog topic keeps safe.
 */
final class ByRow implements Formulation {
  /** Room for every group, so that nothing leaves the cache before a commit. */
  private static final long CACHE_BYTES = 512L * 1024 * 1024;

  /**
   * The last tallies come at the commit behind the last record: the default of 30 s for at least
   * once is too long for that, and that of 100 ms for exactly once sends each group too often.
   */
  private static final int COMMIT_MILLIS = 2000;

  @Override
  public long fill(Stream<TestRow> rows, String cluster, String records) {
    try (var sender = new RecordSender<>(cluster, records, new BooleanSerializer())) {
      return rows.mapToLong(
              row -> {
                sender.send(row.group(), row.positive());
                return 1;
              })
          .sum();
    }
  }

  @Override
  public Topology topology(String records, String tallies) {
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

  @Override
  public void tune(Properties settings) {
    settings.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG, InMemoryDslStoreSuppliers.class);
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, CACHE_BYTES);
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, COMMIT_MILLIS);
  }
}
