package peers;

import java.io.ByteArrayOutputStream;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Collector;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/**
 * A record for each group: its key and all its results. The producer groups the rows, so the
 * topology needs no state and makes a tally of each record by itself.
 */
final class ByJob implements Formulation {
  @Override
  public long fill(Stream<TestRow> rows, String cluster, String records) {
    long tests = 0;
    // The sender is first, so that it asks for its producer id while the rows are grouped.
    try (var sender = new RecordSender<>(cluster, records, new ByteArraySerializer())) {
      Map<String, ByteArrayOutputStream> jobs =
          rows.collect(Collectors.groupingByConcurrent(TestRow::group, results()));
      for (var job : jobs.entrySet()) {
        sender.send(job.getKey(), job.getValue().toByteArray());
        tests += job.getValue().size();
      }
    }
    return tests;
  }

  /** The results of a group, a byte each: 1 is positive. */
  private static Collector<TestRow, ?, ByteArrayOutputStream> results() {
    return Collector.of(
        () -> new ByteArrayOutputStream(8),
        (results, row) -> results.write(row.positive() ? 1 : 0),
        (left, right) -> {
          left.writeBytes(right.toByteArray());
          return left;
        });
  }

  /** The key is only handed on, so it stays bytes. */
  @Override
  public Topology topology(String records, String tallies) {
    var builder = new StreamsBuilder();
    builder.stream(records, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
        .mapValues(Tally::of)
        .to(tallies, Produced.with(Serdes.ByteArray(), Tally.SERDE));
    return builder.build();
  }

  /**
   * Nothing: tallies that are sent at least once do not wait for a commit, and those that are sent
   * exactly once wait for one that comes every 100 ms by default.
   */
  @Override
  public void tune(Properties settings) {}
}
