package peers;

import java.util.Properties;
import java.util.stream.Stream;
import org.apache.kafka.streams.Topology;

/** A way to put the work to Kafka Streams: what a record is, and what the topology makes of it. */
interface Formulation {
  /** Sends all rows to a topic and returns how many there are, when all are acknowledged. */
  long fill(Stream<TestRow> rows, String cluster, String records);

  /** What turns records into tallies. */
  Topology topology(String records, String tallies);

  /** Adds what this topology needs to the settings that all share. */
  void tune(Properties settings);
}
