package peers;

import java.nio.ByteBuffer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** Tests and positive tests of one group; eight bytes in stores and on topics. */
record Tally(int tests, int positive) {
  static final Tally NOTHING = new Tally(0, 0);

  static final Serde<Tally> SERDE =
      Serdes.serdeFrom(
          (topic, tally) ->
              tally == null
                  ? null
                  : ByteBuffer.allocate(8).putInt(tally.tests).putInt(tally.positive).array(),
          (topic, bytes) -> {
            if (bytes == null) {
              return null;
            }
            var buffer = ByteBuffer.wrap(bytes);
            return new Tally(buffer.getInt(), buffer.getInt());
          });

  /** Of the results of one group, where 1 is positive. */
  static Tally of(byte[] results) {
    int positive = 0;
    for (byte result : results) {
      positive += result;
    }
    return new Tally(results.length, positive);
  }

  Tally with(boolean positiveTest) {
    return new Tally(tests + 1, positive + (positiveTest ? 1 : 0));
  }
}
